from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeattn import backends, registry
from edgeattn.backends import Options
from edgeattn.errors import BadInput, UnknownName, Unsupported, UsageError
from edgeattn.graphs import GraphIndex
from edgeattn.program import Case, Program, QdqDialect, StageRecord
from edgeattn.quantize import Settings, quantize
from edgeattn.quantize._insert import quantize_weight
from edgeattn.quantize._plan import plan
from tests.graphs import conv_net, model

pytestmark = pytest.mark.onnxruntime
RNG = np.random.default_rng(0)
DATA = [Case("c", {"image": RNG.standard_normal((4, 3, 8, 8)).astype(np.float32)}) for _ in range(3)]


def program(graph: onnx.ModelProto) -> Program:
    return Program({"main": graph}, history=(StageRecord("test", 0.0),))


def quantized(graph: onnx.ModelProto, settings: Settings | None = None) -> Program:
    return quantize(program(graph), "int8-static", backends.oracle, iter(DATA), settings)


def w(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.1).astype(np.float32)


def residual_net(attention: bool = False) -> onnx.ModelProto:
    """stem -> [conv-relu-conv (-> SE gate) + stem] -> relu -> conv."""
    n = helper.make_node
    nodes = [
        n("Conv", ["image", "w0"], ["c0"], name="stem", pads=[1] * 4),
        n("Relu", ["c0"], ["r0"], name="stem_relu"),
        n("Conv", ["r0", "w1"], ["c1"], name="conv1", pads=[1] * 4),
        n("Relu", ["c1"], ["r1"], name="relu1"),
        n("Conv", ["r1", "w2"], ["c2"], name="conv2", pads=[1] * 4),
    ]
    branch = "c2"
    if attention:
        nodes += [
            n("GlobalAveragePool", ["c2"], ["pool"], name="squeeze"),
            n("Conv", ["pool", "f1"], ["h"], name="fc1"),
            n("Relu", ["h"], ["hr"], name="fc_relu"),
            n("Conv", ["hr", "f2"], ["e"], name="fc2"),
            n("Sigmoid", ["e"], ["gate"], name="gate"),
            n("Mul", ["c2", "gate"], ["gated"], name="excite"),
        ]
        branch = "gated"
    nodes += [
        n("Add", [branch, "r0"], ["sum"], name="residual"),
        n("Relu", ["sum"], ["r2"], name="relu2"),
        n("Conv", ["r2", "w3"], ["y"], name="head"),
    ]
    weights = {"w0": w(32, 3, 3, 3), "w1": w(32, 32, 3, 3), "w2": w(32, 32, 3, 3), "w3": w(32, 32, 1, 1)}
    weights |= {"f1": w(16, 32, 1, 1), "f2": w(32, 16, 1, 1)} if attention else {}
    return model(nodes, {"image": ["batch", 3, 8, 8]}, {"y": ["batch", 32, 8, 8]}, weights)


@pytest.mark.parametrize("engine_name", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.openvino)])
def test_stays_close_to_float_and_runs_in_int8(engine_name: str, tmp_path: Path) -> None:
    graph = conv_net()
    engine: backends.Backend = registry.get("backends", engine_name)
    result = quantized(graph, Settings(qdq=engine.qdq))
    feeds = DATA[0].feeds
    reference = backends.oracle(program(graph))["main"].run(feeds)["features"]
    candidate = backends.oracle(result)["main"].run(feeds)["features"]
    # Two layers of 8-bit values: 20·log10 of a 1/127 step uniform error is near 40 dB; 30 leaves room for the sum.
    assert 20 * np.log10(np.linalg.norm(reference) / np.linalg.norm(reference - candidate)) > 30
    built = engine.compile(result, Options(precision="int8"), tmp_path)
    assert built.effective["main"]["precision"]["counts"] == {"int8": 2}


_AFTER_MAX = {
    "at once": [],
    "after Tanh": [helper.make_node("Tanh", ["m"], ["read"])],
    "scaled": [helper.make_node("Mul", ["m", "scale"], ["n"]), helper.make_node("Add", ["n", "scale"], ["read"])],
    "turned": [helper.make_node("Transpose", ["m"], ["read"], perm=[1, 0, 2])],
}


@pytest.mark.parametrize("engine_name", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.openvino)])
@pytest.mark.parametrize("between", _AFTER_MAX)
def test_a_layer_that_reads_a_maximum_is_right_on_every_engine(engine_name: str, between: str) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x", "axis"], ["m"], name="max", keepdims=0),
        *_AFTER_MAX[between],
        helper.make_node("MatMul", ["read" if _AFTER_MAX[between] else "m", "w"], ["y"], name="layer"),
    ]
    scale = np.linspace(0.5, 2, 48, dtype=np.float32)
    constants = {"w": w(48, 32), "axis": np.array([3]), "scale": scale}
    net = model(nodes, {"x": ["batch", 4, 48, 2]}, {"y": None}, constants)
    data = [Case("c", {"x": RNG.standard_normal((8, 4, 48, 2)).astype(np.float32)}) for _ in range(2)]
    engine: backends.Backend = registry.get("backends", engine_name)
    result = quantize(program(net), "int8-static", backends.oracle, iter(data), Settings(qdq=engine.qdq))
    reference = backends.oracle(program(net))["main"].run(data[0].feeds)["y"]
    given = engine.load(result.graphs["main"], Options(precision="int8", threads=1)).run(data[0].feeds)["y"]
    # One layer of 8-bit values is near 40 dB; where OpenVINO fuses a quantizer into ReduceMax it gives 1 to 16.
    assert np.linalg.norm(reference - given) < 10 ** (-35 / 20) * np.linalg.norm(reference)
    assert result.history[-1].notes["kept_float"] == {}


def test_does_not_edit_its_input() -> None:
    before = program(conv_net())
    digest = before.digest()
    quantize(before, "int8-static", backends.oracle, iter(DATA))
    assert before.digest() == digest


def test_keeps_inputs_outputs_and_standard_operators() -> None:
    graph, result = conv_net(), quantized(conv_net()).graphs["main"]
    assert [v.name for v in result.graph.input] == [v.name for v in graph.graph.input]
    assert [v.name for v in result.graph.output] == [v.name for v in graph.graph.output]
    assert {n.domain for n in result.graph.node} == {""}
    onnx.checker.check_model(result, full_check=True)


def test_weights_are_stored_as_int8_per_channel_and_biases_stay_float() -> None:
    result = quantized(conv_net()).graphs["main"]
    stored = {t.name: t for t in result.graph.initializer}
    assert stored["w2_int8"].data_type == onnx.TensorProto.INT8
    assert list(stored["w2_scale"].dims) == [16]
    assert stored["b2"].data_type == onnx.TensorProto.FLOAT
    assert "w2" not in stored


def test_every_zero_point_is_zero() -> None:
    result = quantized(residual_net(attention=True)).graphs["main"]
    points = [numpy_helper.to_array(t) for t in result.graph.initializer if t.name.endswith("_zero_point")]
    assert points
    assert not any(p.any() for p in points)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_quantized_weight_is_within_half_a_step_per_channel(axis: int) -> None:
    weight = w(5, 7)
    levels, scale = quantize_weight(weight, axis)
    restored = levels * np.expand_dims(scale, 1 - axis)
    steps = np.broadcast_to(np.expand_dims(scale, 1 - axis), weight.shape)
    assert (np.abs(weight - restored) <= steps * 0.5000001).all()
    assert np.abs(levels).max() == 127


def test_a_channel_of_zeros_does_not_divide_by_zero() -> None:
    levels, scale = quantize_weight(np.zeros((2, 3), np.float32), 0)
    assert not levels.any()
    assert (scale > 0).all()


def test_the_gate_stays_in_float_and_the_reason_is_recorded() -> None:
    result = quantized(residual_net(attention=True))
    index = GraphIndex(result.graphs["main"])
    gate = index.producer["e"]
    assert index.producer[gate.input[0]].op_type == "Relu"
    kept = result.history[-1].notes["kept_float"]
    assert kept == dict.fromkeys(("fc1", "fc2"), "inside an attention gate (policy gate=float)")
    assert result.history[-1].notes["attention"] == ["se: 32 channels, reduction 2, pools mean"]


def test_the_gated_tensor_is_quantized_once_before_pool_and_multiplication() -> None:
    index = GraphIndex(quantized(residual_net(attention=True)).graphs["main"])
    readers = Counter(n.op_type for n in index.consumers["c2_dq"])
    assert readers == {"GlobalAveragePool": 1, "Mul": 1}
    assert [n.op_type for n in index.consumers["c2"]] == ["QuantizeLinear"]


def test_engines_that_want_it_get_uint8_with_zero_at_0_behind_a_relu_and_at_128_elsewhere() -> None:
    result = quantized(residual_net(), Settings(qdq=QdqDialect(unsigned=True, requantize_conv_outputs=True)))
    stored = {t.name: numpy_helper.to_array(t) for t in result.graphs["main"].graph.initializer}
    points = {n.removesuffix("_zero_point"): v for n, v in stored.items() if n.endswith("_zero_point") and not v.ndim}
    assert {v.dtype for v in points.values()} == {np.dtype(np.uint8)}
    assert {n: int(v) for n, v in points.items()} == {"image": 128, "r0": 0, "r1": 0, "c2": 128, "r2": 0}


def test_no_pair_stands_between_convolution_and_relu() -> None:
    index = GraphIndex(quantized(residual_net()).graphs["main"])
    assert index.producer["r1"].input[0] == "c1"


def test_on_a_residual_sum_the_convolutions_own_side_is_left_to_fuse() -> None:
    chosen = plan(residual_net(), Settings())
    assert "r0" in chosen.activations
    assert "c2" not in chosen.activations


def test_engines_that_need_it_get_every_convolution_output_quantized() -> None:
    assert "c2" in plan(residual_net(), Settings(qdq=QdqDialect(requantize_conv_outputs=True))).activations


@pytest.mark.parametrize(
    ("asked", "behind", "operators"),
    [
        (True, {}, ["Gemm", "Add", "Tanh"]),
        (False, {}, ["Gemm", "Tanh"]),
        (True, {"beta": 0.5}, ["Gemm", "Tanh"]),  # an Add would give all of the bias
    ],
)
def test_a_bias_is_added_behind_a_gemm_whose_output_stays_float_where_the_engine_asks(asked, behind, operators) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["product"], name="gemm", **behind),
        helper.make_node("Tanh", ["product"], ["y"], name="tanh"),
    ]
    net = model(nodes, {"x": ["batch", 32]}, {"y": ["batch", 16]}, {"w": w(32, 16), "b": w(16)})
    data = [Case("c", {"x": w(4, 32)})]
    settings = Settings(qdq=QdqDialect(bias_apart=asked))
    result = quantize(program(net), "int8-static", backends.oracle, iter(data), settings)
    kept = [n.op_type for n in result.graphs["main"].graph.node if "Linear" not in n.op_type]
    assert kept == operators
    before, after = (backends.oracle(p)["main"].run(data[0].feeds)["y"] for p in (program(net), result))
    # one INT8 step of an input and a weight near 0.3 in 32 products of 0.01: far below 0.01
    np.testing.assert_allclose(after, before, atol=0.01, rtol=0)


def test_pooling_shares_the_scale_of_what_it_picks_from() -> None:
    n = helper.make_node
    nodes = [
        n("Conv", ["image", "w0"], ["c0"], name="stem", pads=[1] * 4),
        n("Relu", ["c0"], ["r0"], name="relu"),
        n("MaxPool", ["r0"], ["p0"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        n("Conv", ["p0", "w1"], ["y"], name="conv"),
    ]
    weights = {"w0": w(32, 3, 3, 3), "w1": w(32, 32, 1, 1)}
    graph = model(nodes, {"image": ["batch", 3, 8, 8]}, {"y": ["batch", 32, 4, 4]}, weights)
    stored = {t.name: numpy_helper.to_array(t) for t in quantized(graph).graphs["main"].graph.initializer}
    assert stored["r0_scale"] == stored["p0_scale"]


def test_narrow_layers_stay_in_float() -> None:
    kept = plan(conv_net(channels=8), Settings()).kept
    assert set(kept) == {"conv1", "conv2"}
    assert "narrow: 8 -> 8 channels" in kept["conv2"]


def test_keep_patterns_keep_and_a_typo_is_an_error() -> None:
    result = quantized(conv_net(), Settings(keep=("conv2",)))
    assert result.history[-1].notes["kept_float"] == {"conv2": "kept by request"}
    with pytest.raises(UsageError, match="keep pattern 'convv\\*' matches no node"):
        quantized(conv_net(), Settings(keep=("convv*",)))


def test_refuses_to_calibrate_on_nothing_or_on_nan() -> None:
    with pytest.raises(BadInput, match="no calibration sample"):
        quantize(program(conv_net()), "int8-static", backends.oracle, iter(()))
    broken = Case("c", {"image": np.full((1, 3, 8, 8), np.nan, np.float32)})
    with pytest.raises(BadInput, match="non-finite"):
        quantize(program(conv_net()), "int8-static", backends.oracle, iter([broken]))


def test_unknown_schemes_and_policies_are_told_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="unknown scheme 'int8-statc'; did you mean 'int8-static'"):
        quantize(program(conv_net()), "int8-statc", backends.oracle, iter(DATA))
    with pytest.raises(UsageError, match="unknown gate policy 'int4'; known: float"):
        quantized(conv_net(), Settings(gate="int4"))


def test_a_vendor_operator_is_refused_with_exit_4() -> None:
    graph = conv_net()
    graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    relu = graph.graph.node[3]
    relu.op_type, relu.domain = "QuickGelu", "com.microsoft"
    with pytest.raises(Unsupported, match=r"com\.microsoft") as refused:
        quantized(graph)
    assert refused.value.exit_code == 4


def test_an_embedding_that_is_the_output_map_too_is_looked_up_in_float_and_multiplied_in_int8() -> None:
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["x"], name="embed"),
        helper.make_node("Gemm", ["x", "table"], ["logits"], name="head", transB=1),
    ]
    graph = model(nodes, {"tokens": ["batch"]}, {"logits": ["batch", 20]}, {"table": w(20, 16)})
    graph.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    data = [Case("c", {"tokens": np.arange(20)})]
    result = quantize(program(graph), "int8-static", backends.oracle, iter(data)).graphs["main"]
    index = GraphIndex(result)
    table = index.constant(index.producer["x"].input[0])
    assert table is not None
    assert table.dtype == np.float32
    assert {index.producer[name].op_type for name in index.producer["logits"].input} == {"DequantizeLinear"}
    assert [t.data_type for t in result.graph.initializer if t.name == "table_int8"] == [onnx.TensorProto.INT8]


@pytest.mark.torch
def test_a_transformers_norms_softmax_and_gelu_stay_in_float_and_its_linear_maps_do_not() -> None:
    from edgeattn.export import export
    from edgeattn.models import vit

    net = vit.Vit(size=8, patch=4, channels=3, width=16, layers=2, heads=2, hidden=32, classes=16).eval()
    found = quantize(export(vit.source(net)), "int8-static", backends.oracle, iter(DATA)).graphs["main"]
    index = GraphIndex(found)
    quantized = {n.output[0] for n in found.graph.node if n.op_type == "DequantizeLinear"}
    for node in found.graph.node:
        if node.op_type in ("LayerNormalization", "Softmax", "Erf", "Add", "Mul", "Div"):
            assert not quantized & set(node.input), node
    constant = [n for n in index.nodes if n.op_type in ("MatMul", "Gemm", "Conv") and n.input[1] in quantized]
    assert len(constant) == 1 + 2 * 6 + 1  # patches; queries, keys, values, output and two dense layers; head
    assert all(n.input[0] in quantized for n in constant)
