"""Gates written as scales: the same numbers, in fewer passes, and only where it is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeattn import backends, registry
from edgeattn.backends import Options
from edgeattn.graphs import macs_by_node, with_outputs
from edgeattn.program import Case, Program, QdqDialect, StageRecord
from edgeattn.quantize import Settings, _carry, quantize
from edgeattn.quantize._carry import _integers, by_lines
from tests.graphs import model

pytestmark = pytest.mark.onnxruntime
RNG = np.random.default_rng(0)
SIZE = 18  # more positions than lines as channels are taken for
ENGINE = QdqDialect(unsigned=True, requantize_conv_outputs=True, gates_as_scales=True)
PLAIN = QdqDialect(unsigned=True, requantize_conv_outputs=True)


def w(*shape: int, scale: float = 0.15) -> np.ndarray:
    return (RNG.standard_normal(shape) * scale).astype(np.float32)


WEIGHTS = {
    "w0": w(32, 3, 3, 3),
    "w1": w(32, 32, 3, 3, scale=0.08),
    "w2": w(64, 32, 1, 1),
    "w3": w(64, 32, 3, 3, scale=0.03),
    "b2": w(64),
    "ws": w(64, 32, 1, 1),
    "wh": w(16, 64, 1, 1),
    "f1": w(8, 64, 1, 1, scale=0.4),
    "g1": w(8, scale=0.3),
    "f2": w(64, 8, 1, 1, scale=0.4),
    "g2": w(64, scale=0.5),
    "k": w(1, 2, 7, 7),
    "kb": w(1),
    "channel": np.array([1], np.int64),
}
WEIGHTS["f2_twice"] = np.concatenate([WEIGHTS["f2"], WEIGHTS["f2"]], axis=2)
n = helper.make_node
HEAD = [
    n("Conv", ["image", "w0"], ["c0"], name="stem", pads=[1] * 4),
    n("Relu", ["c0"], ["r0"], name="stem_relu"),
    n("Conv", ["r0", "w1"], ["c1"], name="conv1", pads=[1] * 4),
    n("Relu", ["c1"], ["r1"], name="relu1"),
    n("Conv", ["r1", "w2", "b2"], ["x"], name="conv2"),
    n("Conv", ["r0", "ws"], ["short"], name="shortcut"),
]
WIDE = [n("Conv", ["r1", "w3", "b2"], ["x"], name="conv2", pads=[1] * 4) if c.name == "conv2" else c for c in HEAD]
SE = [
    n("GlobalAveragePool", ["x"], ["mean"], name="squeeze"),
    n("Conv", ["mean", "f1", "g1"], ["h"], name="fc1"),
    n("Relu", ["h"], ["hr"], name="fc_relu"),
    n("Conv", ["hr", "f2", "g2"], ["e"], name="fc2"),
    n("Sigmoid", ["e"], ["gate"], name="gate"),
    n("Mul", ["x", "gate"], ["u"], name="excite"),
]
CAM = [
    SE[0],
    n("GlobalMaxPool", ["x"], ["max"], name="peak"),
    n("Concat", ["mean", "max"], ["both"], name="join", axis=2),
    n("Conv", ["both", "f1", "g1"], ["h"], name="fc1"),
    SE[2],
    n("Conv", ["hr", "f2_twice", "g2"], ["e"], name="fc2"),
    *SE[4:],
]


def sam(features: str, opset: int = 18) -> list[onnx.NodeProto]:
    given: dict[str, object] = {} if opset >= 18 else {"axes": [1]}
    inputs = [features, "channel"] if opset >= 18 else [features]
    return [
        n("ReduceMax", inputs, ["peaks"], name="peaks", **given),
        n("ReduceMean", inputs, ["means"], name="means", **given),
        n("Concat", ["peaks", "means"], ["planes"], name="planes", axis=1),
        n("Conv", ["planes", "k", "kb"], ["logit"], name="spatial", pads=[3] * 4),
        n("Sigmoid", ["logit"], ["mask"], name="mask"),
        n("Mul", [features, "mask"], ["v"], name="place"),
    ]


def net(
    gate: list[onnx.NodeProto],
    *,
    size: int = SIZE,
    batch: int | str = 1,
    opset: int = 18,
    extra: tuple[str, ...] = (),
    head: list[onnx.NodeProto] = HEAD,
) -> onnx.ModelProto:
    """stem -> conv -> pointwise conv -> gate, + shortcut -> relu -> conv."""
    result = gate[-1].output[0]
    tail = [
        n("Add", [result, "short"], ["sum"], name="residual"),
        n("Relu", ["sum"], ["r2"], name="relu2"),
        n("Conv", ["r2", "wh"], ["y"], name="head"),
    ]
    nodes = [*head, *gate, *tail]
    read = {name for node in nodes for name in node.input}
    constants = {name: value for name, value in WEIGHTS.items() if name in read}
    outputs: dict[str, list[int | str] | None] = {"y": [batch, 16, size, size], **dict.fromkeys(extra)}
    return model(nodes, {"image": [batch, 3, size, size]}, outputs, constants, opset)


def quantized(
    graph: onnx.ModelProto, dialect: QdqDialect = ENGINE, gate: str = "float"
) -> tuple[onnx.ModelProto, dict[str, object]]:
    batch, _, size, _ = (dim.dim_value or 1 for dim in graph.graph.input[0].type.tensor_type.shape.dim)
    data = [Case("c", {"image": w(batch, 3, size, size, scale=1.0)}) for _ in range(6)]
    program = Program({"main": graph}, history=(StageRecord("test", 0.0),))
    result = quantize(program, "int8-static", backends.oracle, iter(data), Settings(gate, qdq=dialect))
    return result.graphs["main"], dict(result.history[-1].notes)


def run(graph: onnx.ModelProto, image: np.ndarray, *taps: str) -> list[np.ndarray]:
    program = Program({"main": with_outputs(graph, taps)}, history=(StageRecord("test", 0.0),))
    values = backends.oracle(program)["main"].run({"image": image})
    return [values[name] for name in ("y", *taps)]


def sqnr(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(20 * np.log10(np.linalg.norm(wanted) / np.linalg.norm(wanted - got)))


CASES = {
    "se": (net(SE), 1, {"gate": "u/gate"}),
    "se behind a 3x3 convolution": (net(SE, head=WIDE), 1, {"gate": "u/gate"}),
    "cam": (net(CAM), 1, {"gate": "u/gate"}),
    "sam": (net(sam("x")), 1, {"mask": "v/gate"}),
    "cbam": (net([*CAM, *sam("u")]), 2, {"gate": "u/gate", "mask": "v/gate"}),
    "cbam behind a 3x3 convolution": (net([*CAM, *sam("u")], head=WIDE), 2, {"gate": "u/gate", "mask": "v/gate"}),
    "cbam of a small map": (net([*CAM, *sam("u")], size=7), 2, {"gate": "u/gate", "mask": "v/gate"}),
    "cbam in opset 17": (net([*CAM, *sam("u", 17)], opset=17), 2, {"gate": "u/gate", "mask": "v/gate"}),
}


@pytest.mark.parametrize("case", CASES)
def test_gates_as_scales_are_the_float_gates_and_lose_no_more_than_the_plain_form(case: str) -> None:
    graph, count, gates = CASES[case]
    carried, notes = quantized(graph)
    plain, _ = quantized(graph, PLAIN)
    assert (notes["gates_as_scales"], notes["gates_not_as_scales"]) == (count, {})
    onnx.checker.check_model(carried, full_check=True)
    size = graph.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    noise: list[float] = []
    signals: list[tuple[float, float]] = []
    for _ in range(4):
        image = w(1, 3, size, size, scale=1.0)
        wanted, *float_gates = run(graph, image, *gates)
        got, *ours = run(carried, image, *gates.values())
        for a, b in zip(float_gates, ours, strict=True):
            noise.append(float(np.sqrt(np.mean((b.ravel() - a.ravel()) ** 2))))
            assert np.ptp(a) > 0.1, "a gate that does not vary shows nothing"
        signals.append((sqnr(wanted, got), sqnr(wanted, run(plain, image)[0])))
    # 8-bit features bring 1/255 of their range, a maximum up to a whole step of it, and the MLP multiplies that.
    assert np.mean(noise) < 0.01
    with_scales, without = np.mean(signals, axis=0)
    # Half a decibel to a decibel of luck: the same values are rounded, at other places.
    assert with_scales > max(30, without - 1.5)


def _executed(graph: onnx.ModelProto, folder: Path) -> list[str]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimized.onnx"), 4
    ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


@pytest.mark.parametrize(("case", "layers"), [("se", 2), ("cbam", 3)])
def test_int8_gates_multiply_int8_in_their_wide_layers_and_are_scales_all_the_same(
    case: str, layers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_carry, "_WIDE", 1)
    graph, count, gates = CASES[case]
    carried, notes = quantized(graph, gate="int8")
    assert (notes["gates_as_scales"], notes["gates_not_as_scales"]) == (count, {})
    onnx.checker.check_model(carried, full_check=True)
    assert _executed(carried, tmp_path).count("DynamicQuantizeMatMul") == layers  # CBAM's first has two forms
    image = w(1, 3, SIZE, SIZE, scale=1.0)
    wanted, *float_gates = run(graph, image, *gates)
    got, *ours = run(carried, image, *gates.values())
    for a, b in zip(float_gates, ours, strict=True):
        # Two layers' 8-bit levels beside the features' own, which bring 0.01 with float layers.
        assert np.sqrt(np.mean((b.ravel() - a.ravel()) ** 2)) < 0.02
    assert sqnr(wanted, got) > 30


def test_what_no_scale_carries_is_quantized_as_int8_gates_are_elsewhere() -> None:
    graph = FALLBACKS["another activation"][0]
    carried, notes = quantized(graph, gate="int8")
    plain, _ = quantized(graph, PLAIN, gate="int8")
    assert notes["gates_as_scales"] == 0
    assert [node.op_type for node in carried.graph.node] == [node.op_type for node in plain.graph.node]


@pytest.mark.parametrize(("case", "convolutions"), [("se", 4), ("cbam", 5)])
def test_onnx_runtime_keeps_maps_in_int8_and_channels_last_throughout(
    case: str, convolutions: int, tmp_path: Path
) -> None:
    graph, _ = quantized(CASES[case][0])
    operators = _executed(graph, tmp_path)
    assert (
        operators.count("QLinearConv") == convolutions
    )  # all but the last, whose result is float, and one for CBAM's channel gate
    assert operators.count("QLinearAdd") == 1
    assert operators.count("Transpose") <= 2  # of the image and of the answer
    assert "GlobalAveragePool" not in operators
    assert "GlobalMaxPool" not in operators


def test_a_folded_convolution_counts_as_int8_work(tmp_path: Path) -> None:
    graph, _ = quantized(CASES["se"][0])
    macs = macs_by_node(graph)
    assert macs["conv2"] == 64 * 32 * SIZE * SIZE
    engine = registry.get("backends", "onnxruntime")
    program = Program({"main": graph}, history=(StageRecord("test", 0.0),))
    assert (
        engine.compile(program, Options(precision="int8"), tmp_path).effective["main"]["precision"]["label"] == "int8"
    )


TANH = [n("Tanh", ["h"], ["hr"], name="tanh") if node.name == "fc_relu" else node for node in SE]
FALLBACKS = {
    "an open batch": (net(SE, batch="batch"), "sizes are not numbers"),
    "two images": (net(SE, batch=2), "batch is not 1"),
    "another activation": (net(TANH), "a Tanh where Relu"),
    "a score read outside": (net(SE, extra=("e",)), "used outside"),
    "features read outside": (net(SE, extra=("x",)), "used beside the gate"),
    "an output": (net(SE, extra=("u",)), "its result is an output"),
    "one half only": (net([*CAM, *sam("u")], extra=("means",)), "used outside"),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_any_other_gate_is_quantized_as_without_and_the_reason_is_noted(case: str) -> None:
    graph, why = FALLBACKS[case]
    carried, notes = quantized(graph)
    plain, _ = quantized(graph, PLAIN)
    assert notes["gates_as_scales"] == 0
    assert [reason for reason in notes["gates_not_as_scales"].values() if why in reason], notes  # type: ignore[attr-defined]
    assert [node.op_type for node in carried.graph.node] == [node.op_type for node in plain.graph.node]


def test_engines_that_do_not_ask_get_the_plain_form() -> None:
    graph, notes = quantized(CASES["cbam"][0], PLAIN)
    assert (notes["gates_as_scales"], notes["gates_not_as_scales"]) == (0, {})
    assert not {"QLinearConv", "MatMulInteger"} & {node.op_type for node in graph.graph.node}


@pytest.mark.parametrize("bias", [0.5, 3e4])
def test_a_bias_far_above_its_weights_keeps_its_value(bias: float) -> None:
    levels, scales = np.full((2, 4, 1, 1), 127, np.int8), np.array([1e-9, 0.01], np.float32)
    kept, widened, whole = _integers(levels, scales, np.array([bias, bias], np.float32), np.float32(0.02))
    # INT32 of 2**30 levels for the largest, 2**-24 of float32's own: a millionth
    np.testing.assert_allclose(whole * widened.astype(np.float64) * 0.02, bias, rtol=1e-6)
    assert (kept[1] == 127).all()
    # what the weights of a channel lose is at most half of their new step
    assert (np.abs(kept * widened.reshape(2, 1, 1, 1) - levels * scales.reshape(2, 1, 1, 1)) <= widened.max() / 2).all()


@pytest.mark.parametrize("kernel", [(3, 3), (7, 7), (5, 3)])
def test_a_convolution_with_lines_as_channels_is_the_convolution(kernel: tuple[int, int]) -> None:
    weight, planes = w(1, 2, *kernel), w(1, 2, 6, 5)
    pads = [kernel[0] // 2, kernel[1] // 2] * 2
    lines = by_lines(weight, {"pads": pads}, 6)
    assert lines is not None
    nodes = [n("Conv", ["x", "w"], ["y"], pads=pads), n("Conv", ["l", "lines"], ["z"], pads=[0, pads[1]] * 2)]
    graph = model(nodes, {"x": [1, 2, 6, 5], "l": [1, 12, 1, 5]}, {"y": None, "z": None}, {"w": weight, "lines": lines})
    program = Program({"main": graph}, history=(StageRecord("test", 0.0),))
    found = backends.oracle(program)["main"].run({"x": planes, "l": planes.reshape(1, 12, 1, 5)})
    # float32 sums of 98 products at most, of size 0.15: in another order, a few units in the seventh digit
    np.testing.assert_allclose(found["z"].reshape(found["y"].shape), found["y"], atol=1e-6, rtol=1e-5)
    assert by_lines(weight, {"pads": pads, "strides": [2, 2]}, 6) is None


@pytest.mark.parametrize(
    ("head", "first"), [(HEAD, {"u/fc1_mean": (32, 8), "u/fc1": (64, 8)}), (WIDE, {"u/fc1": (64, 8)})]
)
def test_the_mean_is_taken_before_a_pointwise_convolution_alone(
    head: list[onnx.NodeProto], first: dict[str, tuple[int, int]]
) -> None:
    graph, _ = quantized(net([*CAM, *sam("u")], head=head))
    found = {t.name: tuple(t.dims) for t in graph.graph.initializer if t.name in ("u/fc1", "u/fc1_mean")}
    assert found == first


def test_the_constants_of_replaced_gates_are_gone() -> None:
    graph, _ = quantized(CASES["cbam"][0])
    stored = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    read = {name for node in graph.graph.node for name in node.input}
    assert set(stored) <= read
    assert stored["u/fc2"].shape == (8, 64)  # the stacked layer's two equal halves became one
