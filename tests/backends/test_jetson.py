"""jetson: which boards take which graphs, and what a kit tells them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeattn import registry
from edgeattn.backends import Options, oracle
from edgeattn.fed import profiles
from edgeattn.graphs import opset_of
from edgeattn.kits import types
from edgeattn.program import Case, Program, Reference, Stop, Wiring
from tests.conftest import edgeattn
from tests.graphs import conv_net, model
from tests.kit.kits import decoder, make, network

pytestmark = pytest.mark.onnxruntime
JETSON = registry.get("backends", "jetson")


def test_a_bare_target_is_the_commonest_board_and_every_device_has_a_row() -> None:
    assert JETSON.devices == ("jp6.2", "jp5.1", "jp6.0", "jp6.1", "jp7.1", "jp7.2", "jp7.2.2")
    assert JETSON.executes(Options("jp5.1")).why == "its engine is built and run on a board with JetPack 5.1"


def _reduced(opset: int = 18) -> onnx.ModelProto:
    """A reduction, whose axes are an attribute up to opset 17."""
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["y"], name="mean", keepdims=0)]
    return model(nodes, {"x": ["batch", 3, 8, 8]}, {"y": ["batch", 3]}, {"axes": np.array([2, 3])}, opset)


def test_opset_18_becomes_17_for_the_tensorrt_of_jetpack_5_and_stays_elsewhere(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    expected = oracle(Program({"main": _reduced()}))["main"].run({"x": x})["y"]
    for device, opset in (("jp5.1", 17), ("jp6.0", 17), ("jp6.2", 18), ("jp7.2", 18)):
        JETSON.compile(Program({"main": _reduced()}), Options(device), tmp_path)
        written = onnx.load(tmp_path / "main.onnx")
        assert (opset_of(written), written.ir_version) == (opset, 8)
        stand_in = JETSON.open(tmp_path / "main.onnx", JETSON.stand_in(Options(device)))
        np.testing.assert_array_equal(stand_in.run({"x": x})["y"], expected)


REFUSED = [
    ("jp5.1", "fp32", lambda: _reduced(19), "opset 19; TensorRT 8.5 reads 7 to 17", "--opset 17"),
    ("jp6.2", "fp32", lambda: _reduced(21), "opset 21; TensorRT 10.3 reads 7 to 20", "--opset 20"),
    ("jp6.0", "bf16", conv_net, "TensorRT 8.6 has no BF16", "--precision fp16"),
    ("jp6.2", "fp16", conv_net, "fp16 is asked for and no tensor is FLOAT16", "quantize --scheme fp16"),
    ("jp5.1", "fp16", conv_net, "it would be built in FP32", "quantize --scheme fp16"),
    ("jp6.2", "int8", lambda: _dynamic(), "DynamicQuantizeLinear", "int8-static"),
]


def _dynamic() -> onnx.ModelProto:
    """Activations that are quantized while the graph runs."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="dequantize"),
    ]
    return model(nodes, {"x": [1, 4]}, {"y": [1, 4]})


@pytest.mark.parametrize(("device", "precision", "graph", "why", "hint"), REFUSED)
def test_what_the_board_does_not_take_is_refused_before_anything_is_written(
    device: str, precision: str, graph: object, why: str, hint: str
) -> None:
    refusals = JETSON.unsupported(Program({"main": graph()}), Options(device, precision))  # type: ignore[operator]
    assert any(why in r.reason and hint in r.hint for r in refusals), refusals


def test_compile_writes_a_kit_that_names_the_versions_profiles_and_products(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "net.onnx")
    done = edgeattn("compile", tmp_path / "net.onnx", "-o", tmp_path / "kit", "-t", "jetson:jp6.2", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["execution"]["ran"] is False
    told = json.loads((tmp_path / "kit" / "kit.json").read_text())
    assert told["library"] == {"name": "tensorrt", "version": "10.3"}
    (graph,) = told["graphs"].values()
    assert graph["profiles"] == [{"image": {"min": [1, 3, 8, 8], "opt": [1, 3, 8, 8], "max": [2, 3, 8, 8]}}]
    assert graph["products"] == {"conv1": [27648, "fp32"], "conv2": [147456, "fp32"]}
    line = (tmp_path / "kit" / "trtexec.sh").read_text().splitlines()[-1]
    assert "--stronglyTyped --noTF32" in line
    assert "--minShapes=image:1x3x8x8 --optShapes=image:1x3x8x8 --maxShapes=image:2x3x8x8" in line
    again = edgeattn("compile", tmp_path / "net.onnx", "-o", tmp_path / "kit", "-t", "jetson:jp5.1", "--force")
    assert again.returncode == 0, again.stderr
    assert "--buildOnly --noTF32" in (tmp_path / "kit" / "trtexec.sh").read_text()


def test_a_quantized_graph_gets_an_int8_kit_without_being_told(tmp_path: Path) -> None:
    constants = {"scale": np.float32(0.1), "zero": np.int8(0), "w": np.ones((4, 4), np.int8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dx"], name="x_back"),
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["dw"], name="w_back"),
        helper.make_node("MatMul", ["dx", "dw"], ["y"], name="product"),
    ]
    onnx.save(model(nodes, {"x": [1, 4]}, {"y": [1, 4]}, constants), tmp_path / "net.onnx")
    done = edgeattn("compile", tmp_path / "net.onnx", "-o", tmp_path / "kit", "-t", "jetson:jp6.2")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "kit" / "kit.json").read_text())["precision"] == "int8"


def test_the_steps_of_a_decoder_get_profiles_of_what_the_encoder_hands_them(tmp_path: Path) -> None:
    told = json.loads((make(decoder(), tmp_path / "kit") / "kit.json").read_text())
    assert told["graphs"]["step"]["profiles"][0]["total"] == {"min": [1, 1], "opt": [1, 1], "max": [1, 1]}
    assert told["wiring"]["state"] == {"step.total": "step.total_out"}


def test_a_state_that_grows_is_built_for_the_longest_sequence() -> None:
    tokens = np.array([[1, 2, 3]])
    nodes = [
        helper.make_node("Cast", ["token"], ["number"], to=1),
        helper.make_node("Unsqueeze", ["number", "axis"], ["column"]),
        helper.make_node("Concat", ["past", "column"], ["present"], axis=1),
        helper.make_node("Identity", ["present"], ["logits"]),
    ]
    ends = {"past": ["batch", "past"]}, {"present": ["batch", "seen"], "logits": ["batch", "seen"]}
    step = model(nodes, *ends, {"axis": np.array([1])})
    step.graph.input.append(helper.make_tensor_value_info("token", onnx.TensorProto.INT64, ["batch"]))
    prompt = model([helper.make_node("Identity", ["x"], ["y"])], {"x": ["batch", "n"]}, {"y": ["batch", "n"]})
    stop = Stop("step.token", "step.logits", 0, 9, max_steps=50)
    wiring = Wiring({"step.past": "prompt.y"}, {"step.past": "step.present"}, stop)
    cases = (Case("real-1", {"x": np.zeros((1, 4), np.float32)}, tokens),)
    program = Program({"prompt": prompt, "step": step}, wiring, Reference("test", cases))
    asked = [{"batch": (1, 1, 1)}, {"batch": (1, 2, 4)}]
    assert [bucket["past"] for bucket in profiles(program, asked)["step"]] == [
        {"min": [1, 4], "opt": [1, 4], "max": [1, 54]},
        {"min": [1, 4], "opt": [2, 4], "max": [4, 54]},
    ]


def test_goldens_that_are_too_large_are_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeattn.kits.GOLDEN_BYTES", 2_000)
    told = json.loads((make(network(), tmp_path / "kit") / "kit.json").read_text())
    assert len(told["cases"]) < 6
    assert told["cases"][0]["name"] == "normal-1"
    assert any("left out of the kit for their size" in note for note in told["notes"])


def test_a_misspelt_board_is_a_usage_error() -> None:
    done = edgeattn("compile", "m.onnx", "-o", "kit", "-t", "jetson:jp6.3")
    assert done.returncode == 2
    assert "'jetson' has no device 'jp6.3'; did you mean 'jp6.2'" in done.stderr


def test_a_builder_that_types_weakly_is_allowed_what_the_graph_names() -> None:
    half = conv_net()
    half.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float16), "unused"))
    assert types(half) == ["fp16"]
    nodes = [helper.make_node("DequantizeLinear", ["w", "scale"], ["y"])]
    weights = {"w": np.ones(4, np.int8), "scale": np.ones((), np.float32)}
    assert types(model(nodes, {}, {"y": [4]}, weights)) == ["int8"]
    assert types(conv_net()) == []
