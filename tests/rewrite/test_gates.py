"""Channel and spatial gates in anybody's spelling, by both exporters: what is left of each after rewriting."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import onnxsim
import pytest

torch = pytest.importorskip("torch")

from edgeattn import rewrite as stage
from edgeattn.recognise import recognise
from tests.rewrite.engine import open_plain
from tests.spellings import Unexportable, family, spelling

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]

SHAPE_OPS = {"Expand", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Shape", "Gather", "Slice", "Tile", "Identity"}
LINEAR = {"Gemm", "MatMul", "Einsum", "BatchNormalization", "Dropout", "AveragePool"}
GATES = [s for s in family("se_and_channel", "spatial", "cbam") if s.expected]

# What needs no shape operator less in another layout, or computes something that has no 4-D form.
KEEPS = {
    "channels last": {"se-pool-nhwc", "se-product-nhwc", "se-nhwc", "cam-nhwc", "cbam-nhwc", "cbam-pool-nhwc"},
    "the mean is a sum and a division": {"se-pool-sum", "se-pool-sum-flat", "se-any-size-sum", "se-pool-einsum"},
    "its layers work on (N, C, 1) or (N, 1, C)": {"se-conv1d", "se-linear-last", "se-layernorm-inside-linear"},
    "gates a flattened map": {"se-product-flat", "cbam-of-a-sequence"},
    "slides along the channels": {"eca-transpose", "eca-view", "eca-mean", "eca-conv2d"},
    "squeezes the mask, or both pools at once": {"sam-product-squeezed", "sam-planes-sum", "cam-together"},
    "takes the mask apart by Einsum": {"sam-product-einsum", "cbam-einsum"},
    "no gate of pooled channels and planes": {"coordinate-pool", "coordinate-mean", "coordinate-masks"},
    "the gate is flattened after the sigmoid": {"cbam-parallel-conv"},
}
EXCUSED = {name for names in KEEPS.values() for name in names}
# TorchScript has no pool whose window is the size of its input, nor an adaptive one along a single axis.
ONLY_DYNAMO = {
    "se-pool-window",
    "cam-window",
    "cbam-pool-window",
    "cbam-original",
    "coordinate-pool",
    "coordinate-masks",
}
PLAIN = [s.name for s in GATES if s.name not in EXCUSED]
SHARED = [name for name in PLAIN if name.startswith(("cam-", "cbam-"))]


def by(exporter, opset, names):
    return [(name, exporter, opset) for name in names if exporter == "dynamo" or name not in ONLY_DYNAMO]


# TorchScript exports in a blink; PyTorch's newer exporter takes seconds, so only its best-known spellings are in
# every run.
QUICK = by("torchscript", 17, PLAIN) + by("dynamo", 18, ["cbam-original"])
LONG = [case for opset in (11, 13, 20) for case in by("torchscript", opset, PLAIN)]
LONG += by("dynamo", 18, PLAIN) + by("dynamo", 23, PLAIN)
CASES = QUICK + [pytest.param(*case, marks=pytest.mark.long) for case in LONG if case not in QUICK]


@functools.cache
def rewritten(name, exporter, opset):
    try:
        source = spelling(name).export(exporter, opset)
    except Unexportable as error:
        pytest.skip(f"{exporter} cannot write it: {error}")
    return source, stage.rewrite(source, open_plain)


def operators(program):
    return Counter(node.op_type for node in program.graphs["main"].graph.node)


def kinds(program):
    return [a.kind for a in recognise(program.graphs["main"])]


@pytest.mark.parametrize(("name", "exporter", "opset"), CASES)
def test_no_shape_operator_and_no_matrix_product_is_left(name, exporter, opset):
    _, result = rewritten(name, exporter, opset)
    assert not (SHAPE_OPS | LINEAR) & set(operators(result)), operators(result)
    assert [r for r in result.history[-1].notes["rules"] if "undone" in r] == []


@pytest.mark.parametrize(("name", "exporter", "opset"), CASES)
def test_pytorch_agrees_at_every_size_and_dimensions_stay_dynamic(name, exporter, opset):
    source, result = rewritten(name, exporter, opset)
    session = open_plain(result)["main"]
    for case in source.reference.cases:
        # float32 sums of up to 16 * 9 terms of order 1, of which 1e-5 is some tens of units in the last place
        np.testing.assert_allclose(session.run(case.feeds)["y"], case.outputs["y"], rtol=1e-4, atol=1e-5)
    symbols = [d.dim_param for d in result.graphs["main"].graph.input[0].type.tensor_type.shape.dim if d.dim_param]
    assert symbols == [d for d in spelling(name).inputs[0].shape if isinstance(d, str) and not spelling(name).static]


@pytest.mark.parametrize(("name", "exporter", "opset"), [c for c in QUICK if c[0] in SHARED])
def test_a_shared_mlp_runs_once(name, exporter, opset):
    source, result = rewritten(name, exporter, opset)
    before = sum(1 for n in source.graphs["main"].graph.node if n.op_type in ("Conv", "Gemm", "MatMul"))
    assert operators(result)["Conv"] == before - 2 * len(spelling(name).expected)


@pytest.mark.parametrize(("name", "exporter", "opset"), CASES)
def test_the_gate_is_found_after_rewriting(name, exporter, opset):
    source, result = rewritten(name, exporter, opset)
    expected = [e.kind for e in spelling(name).expected]
    if kinds(source) == expected:
        assert kinds(result) == expected
    else:  # a rewrite may only complete what is found
        assert set(kinds(source)) <= {*kinds(result), "sam", "se"}


def by_onnxruntime(model, folder):
    """What ONNX Runtime writes at its BASIC level; it fuses a sum of two products into a Gemm, for one."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(folder / "basic.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def by_onnxsim(model, folder):
    return onnxsim.simplify(model)[0]


@pytest.mark.parametrize("simplified", [by_onnxruntime, by_onnxsim])
@pytest.mark.parametrize("name", ["cbam-timm", "cbam-gelu-no-bias", "cbam-expand", "cam-view", "se-norm-inside-linear"])
def test_what_simplifiers_leave_is_rewritten_alike(name, simplified, tmp_path):
    source = spelling(name).export("torchscript", 17)
    model = simplified(source.graphs["main"], tmp_path)
    result = stage.rewrite(replace(source, graphs={"main": model}), open_plain)
    assert not (SHAPE_OPS | LINEAR) & set(operators(result)), operators(result)
    assert operators(result)["Conv"] == operators(rewritten(name, "torchscript", 17)[1])["Conv"]
    assert [r for r in result.history[-1].notes["rules"] if "undone" in r] == []


@pytest.mark.parametrize("name", sorted(EXCUSED - ONLY_DYNAMO))
def test_what_has_no_such_form_keeps_its_numbers_and_is_still_found(name):
    source, result = rewritten(name, "torchscript", 17)
    session = open_plain(result)["main"]
    for case in source.reference.cases:
        # as above
        np.testing.assert_allclose(session.run(case.feeds)["y"], case.outputs["y"], rtol=1e-4, atol=1e-5)
    assert [r for r in result.history[-1].notes["rules"] if "undone" in r] == []
    assert set(kinds(source)) <= {*kinds(result), "sam", "se"}
