"""Lighter gates: the same numbers from fewer bytes, in every spelling of the blocks, and only where it is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeattn import backends, registry
from edgeattn.backends import Options
from edgeattn.graphs import attributes, with_outputs
from edgeattn.program import Case, Program, StageRecord
from edgeattn.quantize import Settings, quantize
from edgeattn.quantize._light import lighten
from edgeattn.recognise import recognise
from tests.quantize.test_gates import CAM, SE, TANH, WIDE, net, sam

RNG = np.random.default_rng(1)
SIZE = 28
CBAM = [*CAM, *sam("u")]
ENGINE = registry.get("backends", "openvino").qdq


def image_of(size: int = SIZE) -> np.ndarray:
    return RNG.standard_normal((1, 3, size, size)).astype(np.float32)


def made(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...], dict[str, onnx.NodeProto]]:
    """The lighter graph, which of its gates are lighter, and its nodes by output."""
    light = lighten(graph, recognise(graph))
    return light.model, light.gates, {node.output[0]: node for node in light.model.graph.node}


def run(graph: onnx.ModelProto, image: np.ndarray, taps: Sequence[str]) -> list[np.ndarray]:
    program = Program({"main": with_outputs(graph, taps)}, history=(StageRecord("test", 0.0),))
    values = backends.oracle(program)["main"].run({"image": image})
    return [values[name] for name in ("y", *taps)]


CASES = {
    "se": (net(SE, size=SIZE), ["gate"], ["gate"]),
    "se of any size": (net(SE, size=SIZE, batch="batch"), ["gate"], ["gate"]),
    "sam": (net(sam("x"), size=SIZE), ["mask"], ["mask"]),
    "cbam": (net(CBAM, size=SIZE), ["gate", "mask"], ["gate", "mask"]),
    "cbam in opset 17": (net([*CAM, *sam("u", 17)], size=SIZE, opset=17), ["gate", "mask"], ["gate", "mask"]),
    "cbam of a small map keeps its convolution": (net(CBAM, size=14), ["gate"], ["gate", "mask"]),
    "cbam behind a 3x3 convolution keeps its mean": (
        net(CBAM, size=SIZE, head=WIDE),
        ["gate", "mask"],
        ["gate", "mask"],
    ),
    "se with another activation": (net(TANH, size=SIZE), ["gate"], ["gate"]),
}


@pytest.mark.parametrize("case", CASES)
def test_lighter_gates_are_the_same_gates(case: str) -> None:
    graph, lighter, gates = CASES[case]
    light, changed, _ = made(graph)
    onnx.checker.check_model(light, full_check=True)
    assert sorted(changed) == lighter
    image = image_of(graph.graph.input[0].type.tensor_type.shape.dim[2].dim_value)
    for wanted, got in zip(run(graph, image, gates), run(light, image, gates), strict=True):
        # The same products, some multiplied in another order and summed once more: the parity every rewrite is held to.
        np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-4)
        assert np.ptp(wanted) > 0.1, "a value that does not vary shows nothing"


def test_the_mean_reads_what_the_convolution_reads_and_the_second_layer_runs_once() -> None:
    light, _, nodes = made(net(CBAM, size=SIZE))
    assert nodes["mean/before"].input[0] == "r1"
    stored = {tensor.name: tuple(tensor.dims) for tensor in light.graph.initializer}
    shapes = [stored[nodes[name].input[1]] for name in ("h/mean", "h/max", "e")]
    assert shapes == [(8, 32, 1, 1), (8, 64, 1, 1), (64, 8, 1, 1)]
    assert [list(attributes(nodes[name])["kernel_shape"]) for name in ("max/rows", "max")] == [[1, SIZE], [SIZE, 1]]
    assert not {"f1", "f2_twice", "k"} & set(stored), "weights that nothing reads would stay in the file"


def _unequal() -> onnx.ModelProto:
    """The rows of a stacked second layer differ: two layers, not one shared."""
    graph = net(CAM, size=SIZE)
    tensor = next(t for t in graph.graph.initializer if t.name == "f2_twice")
    rows = numpy_helper.to_array(tensor).copy()
    rows[:, :, 1] *= 2
    tensor.CopyFrom(numpy_helper.from_array(rows, "f2_twice"))
    return graph


@pytest.mark.parametrize("graph", [_unequal(), net(CAM, size=SIZE, extra=("h",))], ids=["not shared", "read outside"])
def test_an_mlp_that_is_not_one_of_two_branches_stays_as_it_is(graph: onnx.ModelProto) -> None:
    _, _, nodes = made(graph)
    assert [list(nodes[name].input) for name in ("mean", "both", "h")] == [["x"], ["mean", "max"], ["both", "f1", "g1"]]


NEAR_MISSES = {
    "behind a 3x3 convolution": net(SE, size=SIZE, head=WIDE),
    "a mean read outside": net(SE, size=SIZE, extra=("mean",)),
    "planes read outside": net(sam("x"), size=SIZE, extra=("planes",)),
    "rows too long for a band": net(sam("x"), size=72),
    "rows of unknown length": net(sam("x"), size=SIZE, batch="batch"),
}


@pytest.mark.parametrize("case", NEAR_MISSES)
def test_any_other_gate_stays_as_it_is(case: str) -> None:
    if case == "rows of unknown length":
        for dim in NEAR_MISSES[case].graph.input[0].type.tensor_type.shape.dim[2:]:
            dim.ClearField("dim_value")
            dim.dim_param = "side"
        del NEAR_MISSES[case].graph.value_info[:]
    light, changed, _ = made(NEAR_MISSES[case])
    assert changed == ()
    assert light is NEAR_MISSES[case]


def quantized(graph: onnx.ModelProto, gate: str) -> tuple[onnx.ModelProto, dict[str, object]]:
    data = [Case("c", {"image": image_of()}) for _ in range(6)]
    program = Program({"main": graph}, history=(StageRecord("test", 0.0),))
    result = quantize(program, "int8-static", backends.oracle, iter(data), Settings(gate=gate, qdq=ENGINE))
    return result.graphs["main"], dict(result.history[-1].notes)


@pytest.mark.openvino
@pytest.mark.parametrize("gate", ["float", "int8"])
@pytest.mark.parametrize("case", ["se", "cbam"])
def test_openvino_computes_them_right_with_every_wide_map_in_int8(case: str, gate: str) -> None:
    graph, lighter, _ = CASES[case]
    ours, notes = quantized(graph, gate)
    assert sorted(notes["gates_made_lighter"]) == lighter  # type: ignore[call-overload]
    image = image_of()
    (wanted,) = run(graph, image, ())
    engine, options = registry.get("backends", "openvino"), Options("cpu", "int8", 1)
    got = engine.load(ours, options).run({"image": image})["y"]
    # The project's limit for an INT8 signal; both cases reach 33 dB and more.
    assert 20 * np.log10(np.linalg.norm(wanted) / np.linalg.norm(wanted - got)) > 30
    layers = engine.profile(ours, options)
    assert not [layer.node for layer in layers if layer.op == "Reorder" and layer.role == "convert"]
    wide = [
        layer for layer in layers if layer.role == "product" and {"conv1", "conv2", "shortcut"} & {*layer.stands_for}
    ]
    assert [layer.precision for layer in wide] == ["int8"] * 3
