"""fp16 and bf16: what computes in which type, where the Casts stand, and what the numbers say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeattn import backends, decode, graphs, outside, registry
from edgeattn.backends import Options
from edgeattn.errors import Unsupported, UsageError
from edgeattn.program import Case, Program, StageRecord, Wiring
from edgeattn.quantize import Settings, quantize
from edgeattn.rewrite._sample import f32, graph
from tests.graphs import conv_net, counter, model

pytestmark = pytest.mark.onnxruntime
RNG = np.random.default_rng(0)
BOTH = pytest.mark.parametrize("scheme", ["fp16", "bf16"])
ELEMENT = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
X = RNG.standard_normal((4, 8)).astype(np.float32)


def typed(net: onnx.ModelProto, scheme: str, settings: Settings | None = None, x: np.ndarray = X) -> Program:
    feeds = {net.graph.input[0].name: x}
    before = Program({"main": net}, history=(StageRecord("test", 0.0),))
    result = quantize(before, scheme, backends.oracle, [Case("c", feeds)], settings)
    onnx.checker.check_model(result.graphs["main"], full_check=True)
    onnx.shape_inference.infer_shapes(result.graphs["main"], check_type=True, strict_mode=True)
    return result


def in_type(result: Program, scheme: str) -> set[str]:
    """Operators that give a value of the low type, Casts apart."""
    found = result.graphs["main"]
    types = graphs.element_types(found)
    return {n.op_type for n in found.graph.node if types[n.output[0]] == ELEMENT[scheme] and n.op_type != "Cast"}


def casts(result: Program) -> int:
    return Counter(n.op_type for n in result.graphs["main"].graph.node)["Cast"]


def answer(program: Program, x: np.ndarray = X) -> np.ndarray:
    (name,) = (v.name for v in program.graphs["main"].graph.input)
    return next(iter(backends.rounded(program)["main"].run({name: x}).values()))


@BOTH
def test_a_softmax_between_two_layers_costs_one_cast_in_and_one_out(scheme):
    net = graph(
        """(float[n,8] x) => (float[n,8] y) {
            a = MatMul(x, w)
            s = Softmax(a)
            t = Mul(s, two)
            p = Softmax(t)
            y = MatMul(p, w) }""",
        w=(8, 8),
        two=f32(2),
    )
    result = typed(net, scheme)
    assert in_type(result, scheme) == {"MatMul"}  # the Mul stays between its neighbours, in their type
    assert casts(result) == 4  # border, border, in, out
    stored = {t.name: t.data_type for t in result.graphs["main"].graph.initializer}
    assert stored == {f"w_{scheme}": ELEMENT[scheme], "two": TensorProto.FLOAT}


def test_a_value_that_both_types_read_is_cast_once():
    net = graph(
        """(float[n,8] x) => (float[n,8] y, float[n,1] m, float[n,1] s) {
            a = MatMul(x, w)
            m = ReduceMean <keepdims = 1> (a, last)
            s = ReduceSum <keepdims = 1> (a, last)
            y = MatMul(a, w) }""",
        w=(8, 8),
        last=np.array([1]),
    )
    assert casts(typed(net, "bf16")) == 3  # in at the border, out of it, and one for both sums


def test_what_overflows_on_the_cases_stays_in_fp32_and_in_bf16_it_need_not():
    net = graph(
        """(float[n,8] x) => (float[n,8] y) {
            a = MatMul(x, w)
            b = Mul(a, large)
            c = Mul(b, small)
            y = MatMul(c, w) }""",
        w=(8, 8),
        large=f32(1e5),
        small=f32(1e-5),
    )
    result = typed(net, "fp16")
    assert in_type(result, "fp16") == {"MatMul"}
    why = result.history[-1].notes["kept_float"]
    assert why["node_b"] == "reads a constant of 1e+05, beyond FP16's 6.55e+04"
    assert why["node_c"] == "reads a constant of 1e-05, too small for FP16 to hold well"
    assert in_type(typed(net, "bf16"), "bf16") == {"MatMul", "Mul"}
    before = answer(Program({"main": net}))
    # two products of 8 numbers with 11 bits each: an error of 2⁻¹¹ a rounding, some ten of them
    np.testing.assert_allclose(answer(result), before, rtol=0, atol=np.abs(before).max() * 2**-8)


def test_a_sum_that_its_mean_does_not_show_is_measured():
    net = graph(
        "(float[n,c,64,64] x) => (float[n,c,1,1] y) { r = Conv(x, w) \n m = GlobalAveragePool(r) \n y = Conv(m, w) }",
        w=np.eye(8, dtype=np.float32)[:, :, None, None],
    )
    quiet = np.abs(RNG.standard_normal((1, 8, 64, 64))).astype(np.float32)  # means near 0.8 are sums near 3,300
    assert in_type(typed(net, "fp16", x=quiet), "fp16") == {"Conv", "GlobalAveragePool"}
    loud = typed(net, "fp16", x=quiet * 20)
    assert in_type(loud, "fp16") == {"Conv"}
    assert "it adds up to" in loud.history[-1].notes["kept_float"]["node_m"]


@BOTH
def test_a_mask_of_minus_a_billion_stays_in_fp32(scheme):
    net = graph(
        """(float[n,8] x) => (float[n,8] y) {
            a = MatMul(x, w)
            hidden = Less(x, zero)
            b = Where(hidden, least, a)
            s = Softmax(b)
            y = MatMul(s, w) }""",
        w=(8, 8),
        zero=f32(0),
        least=f32(-1e9),
    )
    result = typed(net, scheme)
    assert in_type(result, scheme) == {"MatMul"}
    assert np.isfinite(answer(result)).all()


def test_whole_numbers_that_bf16_would_change_stay():
    net = graph(
        "(float[n,300] x) => (float[n,300] y) { a = MatMul(x, w) \n y = Add(a, places) }",
        w=(300, 300),
        places=np.arange(300, dtype=np.float32),
    )
    x = RNG.standard_normal((2, 300)).astype(np.float32)
    why = typed(net, "bf16", x=x).history[-1].notes["kept_float"]
    assert why["node_y"] == "reads whole numbers up to 299, of which BF16 holds each up to 256"
    assert "node_y" not in typed(net, "fp16", x=x).history[-1].notes["kept_float"]


@BOTH
def test_keep_patterns_keep_and_a_typo_is_an_error(scheme):
    x = RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)
    result = typed(conv_net(), scheme, Settings(keep=("conv2",)), x)
    assert result.history[-1].notes["kept_float"]["conv2"] == "kept by request"
    assert result.history[-1].notes["layers"] == 1
    with pytest.raises(UsageError, match="keep pattern 'convv' matches no node"):
        typed(conv_net(), scheme, Settings(keep=("convv",)), x)


@BOTH
def test_half_the_bytes_and_the_same_names_and_types_at_the_border(scheme):
    net = conv_net(64)
    result = typed(net, scheme, x=RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)).graphs["main"]
    assert outside.size(result) < 0.55 * outside.size(net)
    assert list(result.graph.input) == list(net.graph.input)
    assert list(result.graph.output) == list(net.graph.output)


def test_bf16_convolutions_need_opset_22_and_an_older_graph_says_so():
    x = RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)
    raised = typed(conv_net(), "bf16", x=x).graphs["main"]
    assert graphs.opset_of(raised) == 22
    older = conv_net()
    older.opset_import[0].version = 17
    hint = r"node 'conv1': nothing can compute in BF16: opset 17 has no BF16 Conv; export with --opset 18 or newer"
    with pytest.raises(Unsupported, match=hint):
        typed(older, "bf16", x=x)


def test_a_body_that_captures_a_typed_value_reads_it_in_float32():
    n = helper.make_node
    value = helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)
    branch = helper.make_graph([n("Neg", ["a"], ["inner"], name="inside")], "branch", [], [value])
    nodes = [
        n("MatMul", ["x", "w"], ["a"], name="layer"),
        n("If", ["yes"], ["y"], name="choice", then_branch=branch, else_branch=branch),
    ]
    constants = {"w": np.eye(8, dtype=np.float32), "yes": np.array(True)}
    result = typed(model(nodes, {"x": ["n", 8]}, {"y": ["n", 8]}, constants), "fp16")
    assert in_type(result, "fp16") == {"MatMul"}
    np.testing.assert_array_equal(answer(result), -X.astype(np.float16).astype(np.float32))


def test_states_and_wiring_of_a_program_stay_float32():
    built, wiring = counter()
    step = built["step"]
    step.graph.node.insert(0, helper.make_node("MatMul", ["total", "one"], ["scaled"], name="layer"))
    step.graph.node[1].input[0] = "scaled"
    program = Program(built, Wiring(**{**wiring, "stop": _stop(wiring)}), history=(StageRecord("test", 0.0),))
    begin = {"begin": np.zeros((1, 1), np.float32)}
    result = quantize(program, "fp16", backends.oracle, [Case("c", begin)])
    assert result.history[-1].notes["layers"] == 1
    tokens = decode.run(backends.rounded(result), result.wiring, begin)["tokens"]
    assert tokens.tolist() == decode.run(backends.oracle(program), program.wiring, begin)["tokens"].tolist()


def _stop(wiring):
    from edgeattn.program import Stop

    return Stop(**wiring["stop"])


def test_a_program_without_layers_has_nothing_to_type():
    with pytest.raises(Unsupported, match="no layer with weights to compute in FP16"):
        quantize(Program({"main": counter()[0]["encoder"]}), "fp16", backends.oracle, [Case("c", {"begin": X[:, :1]})])


def test_fp16_needs_inputs_to_measure_on():
    with pytest.raises(UsageError, match="no inputs to measure ranges on"):
        quantize(Program({"main": conv_net()}), "fp16", backends.oracle, ())


@pytest.mark.openvino
def test_openvino_computes_bf16_where_the_graph_says_so_and_fp32_where_it_says_that(tmp_path: Path):
    backend = registry.get("backends", "openvino")
    net = conv_net()
    result = typed(net, "bf16", x=RNG.standard_normal((1, 3, 8, 8)).astype(np.float32))
    options = Options(precision="bf16", threads=1)
    if refused := backend.unsupported(result, options):
        pytest.skip(refused[0].reason)
    built = backend.compile(result, options, tmp_path)
    assert built.effective["main"]["precision"]["counts"] == {"bf16": 2}
    x = 300 * np.ones((1, 3, 8, 8), np.float32)  # a mean of 64 numbers near 1000: BF16 would round it to 3 digits
    (found,) = backend.open(tmp_path / built.files["main"], options).run({"image": x}).values()
    (wanted,) = backends.rounded(result)["main"].run({"image": x}).values()
    # the convolutions' own sums run in another order: a last BF16 digit of a few of 64 numbers may differ
    np.testing.assert_allclose(found, wanted, rtol=2**-9, atol=0.5)
