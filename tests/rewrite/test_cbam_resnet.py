"""ResNet-50's blocks with a CBAM, rewritten: what is counted between the last convolution and the sum, at any size."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import onnx
import pytest

onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from edgeattn import models
from edgeattn import rewrite as stage
from edgeattn.graphs import GraphIndex, walk_back
from edgeattn.recognise import recognise
from tests.rewrite.engine import open_plain

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]

# Two pools, Concat, Conv, Relu, Conv, Sigmoid, Mul; ReduceMax, ReduceMean, Concat, Conv, Sigmoid, Mul.
NODES = 14
ATTENTION = Counter(
    {"Concat": 2, "Conv": 3, "Sigmoid": 2, "Mul": 2, "Relu": 1}
    | {"GlobalAveragePool": 1, "GlobalMaxPool": 1, "ReduceMax": 1, "ReduceMean": 1}
)


@functools.cache
def network(depths, widths):
    """The network, what is exported of it and what is left of that; a small one has the same blocks."""
    from edgeattn.export import export

    family, config = models.find("cbam_resnet50")
    options = config.options if depths is None else {**config.options, "depths": depths, "widths": widths}
    torch.manual_seed(0)
    net = family.build(**options).eval()
    source = export(family.source(net))
    return net, source, stage.rewrite(source, open_plain)


SMALL = ((1, 2), (16, 32))
BOTH = [SMALL, pytest.param(None, None, marks=pytest.mark.slow)]


def attention_nodes(model):
    """For every residual sum, the operators between it and the convolution its branch ends in."""
    index = GraphIndex(model)
    for found in recognise(model):
        yield Counter(
            n.op_type
            for n in walk_back_to(index, found.result, found.features)
            if n.op_type != "Constant" and not all(index.is_constant(i) for i in n.input)
        )


def walk_back_to(index, start, stop):
    behind = {n.output[0] for n in walk_back(index, stop)}
    return [n for n in walk_back(index, start) if n.output[0] not in behind]


@pytest.mark.parametrize(("depths", "widths"), BOTH)
def test_a_block_is_fourteen_operators(depths, widths):
    _, source, result = network(depths, widths)
    blocks = list(attention_nodes(result.graphs["main"]))
    assert len(blocks) == (16 if depths is None else sum(depths))
    assert all(block == ATTENTION for block in blocks), blocks
    assert ATTENTION.total() == NODES
    assert all(block.total() > 20 for block in attention_nodes(source.graphs["main"]))


@pytest.mark.parametrize(("depths", "widths"), BOTH)
def test_nothing_but_the_classifier_reshapes(depths, widths):
    _, source, result = network(depths, widths)
    before, left = (Counter(n.op_type for n in p.graphs["main"].graph.node) for p in (source, result))
    assert left["Reshape"] + left["Flatten"] == 1
    assert left["Gemm"] == 1
    assert left["Conv"] == before["Conv"] + 2 * (16 if depths is None else sum(depths)), "a gate's two, of its Gemms"
    gone = {"Expand", "Unsqueeze", "Squeeze", "Shape", "Gather", "Slice", "Div", "BatchNormalization"}
    assert not gone & set(left), left
    assert [r for r in result.history[-1].notes["rules"] if "undone" in r] == []


@pytest.mark.parametrize(("depths", "widths"), BOTH)
@pytest.mark.parametrize("size", [(1, 224, 224), (2, 96, 160)])
def test_exported_it_gives_pytorchs_numbers_at_any_batch_and_any_size(depths, widths, size):
    net, source, _ = network(depths, widths)
    assert {node.domain for node in source.graphs["main"].graph.node} == {""}
    batch, height, width = size
    image = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    session = onnxruntime.InferenceSession(source.graphs["main"].SerializeToString())
    with torch.inference_mode():
        want = net(image).numpy()
    (have,) = session.run(None, {"image": image.numpy()})
    # float32 sums in another order; logits are of unit size
    np.testing.assert_allclose(have, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("depths", "widths"), BOTH)
@pytest.mark.parametrize("size", [(1, 32, 32), (2, 33, 47), (3, 65, 31), (1, 97, 130)])
def test_any_batch_and_any_size_give_the_numbers_of_before(depths, widths, size):
    _, source, result = network(depths, widths)
    batch, height, width = size
    image = np.random.default_rng(0).standard_normal((batch, 3, height, width), np.float32)
    want, have = (next(iter(open_plain(p)["main"].run({"image": image}).values())) for p in (source, result))
    # logits of order 1 through at most fifty float32 layers, added in another order in the gates alone
    np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


def test_the_names_of_modules_stay_on_every_new_node():
    *_, result = network(*SMALL)
    for node in result.graphs["main"].graph.node:
        told = {p.key: p.value for p in node.metadata_props}
        if "edgeattn.rule" in told:
            assert "blocks" in told["pkg.torch.onnx.name_scopes"] or "pool" in told["pkg.torch.onnx.name_scopes"]
    onnx.checker.check_model(result.graphs["main"], full_check=True)
