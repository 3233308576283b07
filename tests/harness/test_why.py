"""Why an engine is not faster: real engines on small graphs made to show one cause each."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeattn import backends, registry
from edgeattn.backends import Executed, Options
from edgeattn.harness import layers, why
from edgeattn.harness.layers import Layer, Profile
from edgeattn.program import Case, Program, StageRecord, Stop, Wiring
from edgeattn.quantize import Settings, quantize
from edgeattn.report.timing import TimeReport
from tests.graphs import conv_net, counter, model

pytestmark = [pytest.mark.onnxruntime, pytest.mark.openvino]
ENGINES = ("onnxruntime", "openvino")
IMAGE = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
RNG = np.random.default_rng(0)
C, SIZE = 32, 40


def explained(
    program: Program, engine: str, feeds: dict[str, np.ndarray], kept: dict[str, str] | None = None
) -> TimeReport:
    backend = registry.get("backends", engine)
    found = layers.profile(program, backend, Options(precision="int8", threads=1), Case("c", feeds), runs=5)
    return why.explain(found, program, why.Setting(f"{engine}:cpu", "int8", 1, kept or {}, ("avx2", "avx_vnni")))


def quantized(engine: str) -> Program:
    program = Program({"main": conv_net(C)}, history=(StageRecord("test", 0.0),))
    settings = Settings(qdq=registry.get("backends", engine).qdq)
    return quantize(program, "int8-static", backends.oracle, iter([Case("c", {"image": IMAGE})]), settings)


def causes(found: TimeReport) -> dict[str, tuple[str, ...]]:
    return {cause.cause: cause.nodes for cause in found.causes}


@pytest.mark.parametrize("engine", ENGINES)
def test_convolutions_between_pairs_are_the_work_and_no_cause(engine: str) -> None:
    found = explained(quantized(engine), engine, {"image": IMAGE})
    assert found.macs_in == {"int8": 1.0}
    assert not {"float-layers", "unfused-layers"} & set(causes(found))
    spent = sum(value or 0.0 for value in found.kinds.values())
    # Time under half a percent of the run between the nodes is not told; the rest adds up.
    assert spent == pytest.approx(found.total_ms, rel=0.006)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_float_graph_asked_to_be_int8_is_an_island_whole(engine: str) -> None:
    found = explained(Program({"main": conv_net(C)}), engine, {"image": IMAGE})
    (cause,) = (c for c in found.causes if c.cause == "float-layers")
    assert set(cause.nodes) == {"conv1", "conv2"}
    assert cause.macs_share == 1.0
    assert cause.why == "fp32: no QuantizeLinear before it in the graph"
    assert f"-t {engine}:cpu" in cause.do


def test_what_the_quantizer_recorded_is_why_a_layer_is_in_float() -> None:
    program = Program({"main": conv_net(C)})
    found = explained(program, "onnxruntime", {"image": IMAGE}, {"conv1": "kept by request"})
    told = {cause.why: cause.nodes for cause in found.causes if cause.cause == "float-layers"}
    assert told["fp32: kept by request"] == ("conv1",)


def unfusable() -> Program:
    """A quantized convolution whose result only float reads: ONNX Runtime fuses between two quantized tensors."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"], name="pack"),
        helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_dq"], name="unpack"),
        helper.make_node("DequantizeLinear", ["w", "s"], ["w_dq"], name="weight"),
        helper.make_node("Conv", ["x_dq", "w_dq"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Softmax", ["c"], ["y"], name="softmax", axis=1),
    ]
    weight = RNG.integers(-127, 128, (C, C, 3, 3)).astype(np.int8)
    shape: list[int | str] = [1, C, SIZE, SIZE]
    return Program(
        {"main": model(nodes, {"x": shape}, {"y": shape}, {"s": np.float32(0.02), "z": np.int8(0), "w": weight})}
    )


def test_pairs_that_did_not_fuse_are_named_with_the_layer_that_stayed_float() -> None:
    found = explained(unfusable(), "onnxruntime", {"x": RNG.standard_normal((1, C, SIZE, SIZE), np.float32)})
    assert causes(found)["unfused-layers"] == ("conv",)
    assert {"pack", "unpack"} <= set(causes(found)["quantize-passes"])
    assert found.macs_in == {"fp32": 1.0}


@pytest.mark.parametrize("engine", ENGINES)
def test_transposes_between_layers_cost_time_of_their_own(engine: str) -> None:
    back, forth = [0, 3, 1, 2], [0, 2, 3, 1]
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], name="turn", perm=forth),
        helper.make_node("MatMul", ["a", "w"], ["b"], name="mix"),
        helper.make_node("Transpose", ["b"], ["y"], name="return", perm=back),
    ]
    shape: list[int | str] = [1, C, SIZE, SIZE]
    program = Program(
        {"main": model(nodes, {"x": shape}, {"y": shape}, {"w": RNG.standard_normal((C, C), np.float32)})}
    )
    found = explained(program, engine, {"x": RNG.standard_normal((1, C, SIZE, SIZE), np.float32)})
    (cause,) = (c for c in found.causes if c.cause == "layout")
    assert set(cause.nodes) == {"turn", "return"}
    assert cause.count == 2
    assert (cause.milliseconds or 0) > 0


def test_a_graph_typed_in_half_precision_that_runs_in_fp32_is_found_out() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], name="down", to=10),
        helper.make_node("MatMul", ["half", "w"], ["product"], name="mix"),
        helper.make_node("Cast", ["product"], ["y"], name="up", to=1),
    ]
    shape: list[int | str] = [4, C]
    program = Program({"main": model(nodes, {"x": shape}, {"y": shape}, {"w": np.ones((C, C), np.float16)})})
    backend = registry.get("backends", "onnxruntime")
    found = layers.profile(program, backend, Options(threads=1), Case("c", {"x": np.ones((4, C), np.float32)}), runs=3)
    report = why.explain(found, program, why.Setting("onnxruntime:cpu", "fp16", 1))
    assert report.macs_in == {"fp32": 1.0}
    (cause,) = (c for c in report.causes if c.cause == "float-layers")
    assert (cause.nodes, cause.why) == (("mix",), "fp32: the engine did not take it to fp16")


def test_every_graph_of_a_program_counts_as_often_as_it_runs() -> None:
    graphs, wiring = counter()
    program = Program(graphs, Wiring(wiring["feeds"], wiring["state"], Stop(**wiring["stop"])))
    backend = registry.get("backends", "onnxruntime")
    found = layers.profile(program, backend, Options(threads=1), Case("c", {"begin": np.array([[2.0]], np.float32)}), 3)
    assert found.calls == {"encoder": 1, "step": 3}
    assert {layer.graph for layer in found.layers} >= {"step"}
    assert sum(layer.milliseconds for layer in found.layers) <= found.total_ms * (
        1 + 1e-6
    )  # of bisecting the profiler's cost


def layer(role: str, spent: float, kernel: str = "", precision: str = "int8") -> Layer:
    return Layer("main", f"{role} node", Executed("n", "Op", role, precision, kernel, spent), spent, 0, "", (), "")


@pytest.mark.parametrize(
    ("isa", "told"),
    [
        (("avx2", "avx512f"), "no VNNI"),
        (("avx2", "avx_vnni"), ""),
        (("neon",), "no dot-product"),
        (("neon", "dotprod"), ""),
    ],
)
def test_a_cpu_without_int8_instructions_is_told(isa: tuple[str, ...], told: str) -> None:
    empty = Program({"main": onnx.ModelProto()})
    profile = Profile((layer("product", 1.0),), {"main": 1}, 1.0, 5)
    warnings = why.explain(profile, empty, why.Setting("openvino:cpu", "int8", 1, {}, isa)).warnings
    assert [told in line for line in warnings] == [True] * bool(told)


def test_reference_kernels_are_told_and_causes_are_ranked_by_time() -> None:
    empty = Program({"main": onnx.ModelProto()})
    found = (layer("layout", 1.0), layer("quantize", 2.0), layer("product", 4.0), layer("other", 0.5, "ref_f32"))
    report = why.explain(Profile(found, {"main": 1}, 10.0, 5), empty, why.Setting("openvino:cpu", "int8", 2, {}, ()))
    assert [(c.cause, c.milliseconds) for c in report.causes] == [
        ("between-nodes", 2.5),
        ("quantize-passes", 2.0),
        ("layout", 1.0),
        ("other-nodes", 0.5),
    ]
    assert report.causes[0].do.startswith("fewer threads")
    assert report.warnings == ("reference kernels, which nobody has made fast, take 0.5 ms: other node",)
