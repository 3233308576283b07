"""What every gate must do: multiply features by a mask, and keep its range and its numbers through export and INT8."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeattn import decode, registry, rewrite
from edgeattn.export import export
from edgeattn.graphs import GraphIndex
from edgeattn.harness import parity
from edgeattn.models import GraphSource, Source
from edgeattn.program import QdqDialect, TensorSpec
from edgeattn.quantize import Settings, attention_policy, quantize
from edgeattn.quantize._plan import plan
from edgeattn.recognise import recognise
from tests.conformance.blocks import ENGINES, GATES, built, opened

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("shape", [(1, 32, 7, 7), (2, 32, 8, 5), (3, 32, 1, 1)])
def test_gating_keeps_the_shape_at_any_size(name, shape):
    assert built(name, 32)(torch.randn(shape)).shape == shape


@pytest.mark.parametrize("name", GATES)
def test_gates_lie_between_zero_and_one_and_can_be_hooked(name):
    block, masks = built(name, 32), []
    for path, module in block.named_modules():
        if path.split(".")[-1] == "gate":
            module.register_forward_hook(lambda module, inputs, output: masks.append(output))
    x = 3 * torch.randn(2, 32, 6, 6)
    gated = block(x)
    assert masks, f"{name} has no submodule called 'gate'"
    assert all(mask.min() >= 0 and mask.max() <= 1 for mask in masks)
    if registry.get("blocks", name).residual:
        assert bool((gated.abs() >= x.abs()).all())
        assert bool((gated.abs() <= 2 * x.abs()).all())
    else:
        assert bool((gated.abs() <= x.abs()).all())


@pytest.mark.parametrize("name", GATES)
def test_gating_in_eval_mode_is_deterministic_and_independent_of_the_batch(name):
    block, x = built(name, 32), torch.randn(3, 32, 6, 6)
    first = block(x)
    assert torch.equal(first, block(x))
    # float32: a batch of one may take another kernel
    torch.testing.assert_close(first[1:2], block(x[1:2]), rtol=1e-5, atol=1e-6)


class Behind(torch.nn.Module):
    """A block behind a convolution, as in a network: its features are no graph input."""

    def __init__(self, block):
        super().__init__()
        self.stem, self.block = torch.nn.Conv2d(3, 16, 3, padding=1), block

    def forward(self, image):
        return self.block(self.stem(image))


@pytest.fixture(scope="module", params=GATES)
def behind_a_convolution(request):
    """``(name, Program)`` of a block behind a convolution, with dynamic batch."""
    inputs = (TensorSpec("image", "float32", ("batch", 3, 9, 6)),)
    return request.param, export(Source({"main": GraphSource(Behind(built(request.param, 16)).eval(), inputs, ("y",))}))


@pytest.mark.parametrize("engine", ENGINES)
def test_exports_with_a_dynamic_batch_and_keeps_eagers_numbers(behind_a_convolution, engine):
    _, program = behind_a_convolution
    sessions = opened(program, engine)
    batches = set()
    for case in program.reference.cases:
        batches.add(case.feeds["image"].shape[0])
        expected, actual = case.outputs["y"], decode.run(sessions, None, case.feeds)["y"]
        # float32 on both sides: sums of at most a few hundred products in another order
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-6 * max(1.0, np.abs(expected).max()))
    assert len(batches) > 1


# A mechanism the recogniser has no kind for must not be taken for another one.
RECOGNISED = {name: [name] for name in ("bam", "cam", "cbam", "coordinate", "eca", "sam", "se")}


def test_is_recognised_as_what_it_is_or_not_at_all(behind_a_convolution):
    name, program = behind_a_convolution
    found = recognise(program.graphs["main"])
    assert [a.kind for a in found] == RECOGNISED.get(name, [])
    assert all(a.channels == 16 for a in found)


@pytest.mark.onnxruntime
def test_under_the_gate_policy_none_of_its_weights_becomes_int8_rewritten_or_not(behind_a_convolution):
    from tests.rewrite.engine import open_plain

    name, program = behind_a_convolution
    for graph in (program.graphs["main"], rewrite.rewrite(program, open_plain).graphs["main"]):
        assert [a.kind for a in recognise(graph)] == RECOGNISED.get(name, [])
        chosen = plan(graph, Settings())
        assert len(chosen.weights) == 1, "the stem's"
        own = any(True for _ in built(name, 16).parameters())  # a mechanism may have none, and then nothing to keep
        assert set(chosen.kept.values()) == ({"inside an attention gate (policy gate=float)"} if own else set())


@pytest.mark.onnxruntime
@pytest.mark.parametrize(("unsigned", "levels"), [(False, 127), (True, 255)])
def test_an_int8_gate_has_the_scale_that_its_range_says_and_shares_it_with_nothing(
    behind_a_convolution, unsigned, levels
):
    from tests.rewrite.engine import open_plain

    name, program = behind_a_convolution
    float32 = rewrite.rewrite(program, open_plain)
    products = attention_policy(float32.graphs["main"], "int8").products
    assert len(products) == {"cbam": 2, "coordinate": 2}.get(name, len(RECOGNISED.get(name, [])))
    if not products:
        return
    assert {p.peak for p in products} == {1.0}
    cases = [c for c in program.reference.cases if c.name.startswith("normal")]
    settings = Settings("int8", qdq=QdqDialect(unsigned=unsigned, requantize_conv_outputs=unsigned))
    int8 = quantize(float32, "int8-static", open_plain, iter(cases), settings)
    index = GraphIndex(int8.graphs["main"])
    assert not [n.name for n in index.nodes if n.op_type == "DequantizeLinear" and n.output[0] not in index.consumers]
    for product in products:
        features, mask = (index.producer[n] for n in index.producer[product.output].input)
        if mask.input[0] != f"{product.mask}_q":
            features, mask = mask, features
        assert [n.op_type for n in (features, mask)] == ["DequantizeLinear"] * 2
        assert float(index.constant(mask.input[1])) == pytest.approx(1 / levels, rel=1e-6)
        assert features.input[1] != mask.input[1]
        assert not index.constant(mask.input[2])
    sessions, limits = open_plain(int8), parity.Limits.of("int8")
    judged = parity.judge("quantize", lambda c: decode.run(sessions, None, c.feeds), cases, limits)
    assert judged.outputs["y"].verdict == "pass", judged.outputs["y"].observed
