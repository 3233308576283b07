"""What every engine must do, run over the folder of backends."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgeattn import backends, decode, registry
from edgeattn.backends import Backend, Options
from edgeattn.errors import BadInput, EngineFailed, Unsupported
from edgeattn.program import Case, Program, Session, StageRecord, Stop, Wiring
from edgeattn.quantize import Settings, quantize
from edgeattn.rewrite._sample import graph
from tests.graphs import conv_net, counter, model

NAMES = registry.names("backends")
IMAGE = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = registry.get("backends", request.param)
    here = found.probe()
    if not here.available:
        pytest.skip(f"{request.param}: {here.why}; {here.hint}")
    return found


@pytest.fixture
def running(backend: Backend) -> Backend:
    here = backend.executes(asked(backend))
    if not here.available:
        pytest.skip(f"{backend.name} builds here and does not run: {here.why}")
    return backend


@pytest.fixture
def telling(backend: Backend) -> Backend:
    if backend.kit:
        pytest.skip(f"{backend.name} writes graphs: what executes them is elsewhere")
    return backend


def asked(backend: Backend, **changes: Any) -> Options:
    """Options for the engine's own first device, and for batches that the tests here run."""
    return Options(backend.devices[0], profiles=({"batch": (1, 2, 8)},) if backend.profiled else (), **changes)


@pytest.mark.parametrize("name", NAMES)
def test_names_itself_as_its_file_and_probes_without_raising(name: str) -> None:
    backend: Backend = registry.get("backends", name)
    here = backend.probe()
    assert backend.name == name
    assert backend.devices
    assert here.version if here.available else here.why and here.hint
    runs = backend.executes(asked(backend))
    assert here.available or not runs.available
    assert runs.available or (runs.why and runs.hint)


def test_refuses_nothing_in_a_plain_network(backend: Backend) -> None:
    assert backend.unsupported(Program({"main": conv_net()}), asked(backend)) == []


def test_refuses_an_opset_from_the_future_before_building(backend: Backend) -> None:
    model = conv_net()
    model.opset_import[0].version = 99
    refusals = backend.unsupported(Program({"main": model}), asked(backend))
    assert [r for r in refusals if "opset 99" in r.reason and r.hint]


def test_compiles_opens_and_agrees_with_the_graph_in_memory(running: Backend, tmp_path: Path) -> None:
    program = Program({"main": conv_net()})
    engine = running.compile(program, asked(running), tmp_path)
    assert all((tmp_path / file).is_file() for file in engine.files.values())
    opened = running.open(tmp_path / engine.files["main"], engine.options)
    loaded = running.load(program.graphs["main"], asked(running))
    assert isinstance(opened, Session)
    feeds = {"image": IMAGE}
    # The same engine with the same settings: the file must not change a bit.
    np.testing.assert_array_equal(opened.run(feeds)["features"], loaded.run(feeds)["features"])


def test_an_engine_that_cannot_run_here_is_built_whole_and_says_so_in_one_line(
    backend: Backend, tmp_path: Path
) -> None:
    options = asked(backend)
    if backend.executes(options).available:
        pytest.skip(f"{backend.name} runs here")
    program = Program({"main": conv_net()})
    engine = backend.compile(program, options, tmp_path)
    assert (tmp_path / engine.files["main"]).stat().st_size > 1000
    for attempt in (
        lambda: backend.open(tmp_path / engine.files["main"], options),
        lambda: backend.load(conv_net(), options),
        lambda: backends.require_running(backend, options, "this test"),
    ):
        with pytest.raises(Unsupported) as raised:
            attempt()
        assert backend.executes(options).why in str(raised.value)
        assert "\n" not in str(raised.value)


def test_agrees_with_numpy(running: Backend) -> None:
    session = running.load(conv_net(), asked(running))
    expected = _numpy_conv_net(IMAGE)
    # FP32 sums of 144 products of unit size: 144 · 6e-8 · a few.
    np.testing.assert_allclose(session.run({"image": IMAGE})["features"], expected, atol=2e-5, rtol=0)


def test_says_what_really_runs(backend: Backend, tmp_path: Path) -> None:
    program = Program({"main": conv_net()})
    effective = backend.compile(program, asked(backend, threads=1), tmp_path).effective["main"]
    assert effective["device"].startswith(backend.devices[0])
    assert effective["precision"]["label"] == "fp32"
    assert sum(effective["precision"]["counts"].values()) == 2
    assert effective["settings"].get("threads", 1) == 1


@pytest.mark.parametrize("name", [n for n in NAMES if n in ("onnxruntime", "openvino")])
def test_says_which_products_really_run_in_int8_also_of_those_that_write_an_output(name: str, tmp_path: Path) -> None:
    backend: Backend = registry.get("backends", name)  # other engines may compute in float, and say so
    rng = np.random.default_rng(0)
    constants = {
        "w1": rng.standard_normal((32, 48), np.float32),
        "b1": rng.standard_normal(48, np.float32),
        "w2": rng.standard_normal((48, 16), np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["product"], name="first"),
        helper.make_node("Tanh", ["product"], ["state"], name="activation"),
        helper.make_node("MatMul", ["state", "w2"], ["keys"], name="second"),
    ]
    net = model(nodes, {"x": ["batch", 32]}, {"state": ["batch", 48], "keys": ["batch", 16]}, constants)
    data = [Case("c", {"x": rng.standard_normal((4, 32), np.float32)})]
    program = Program({"main": net}, history=(StageRecord("test", 0.0),))
    program = quantize(program, "int8-static", backends.oracle, iter(data), Settings(qdq=backend.qdq))
    engine = backend.compile(program, Options(precision="int8", threads=1), tmp_path)
    precision = engine.effective["main"]["precision"]
    assert precision["macs"] == 32 * 48 + 48 * 16
    assert precision["int8_macs"] == precision["macs"]


ROLES = {"product", "quantize", "layout", "convert", "other"}


@pytest.mark.parametrize("named", [True, False])
def test_tells_what_it_executes_in_the_names_of_the_graph(telling: Backend, named: bool) -> None:
    net = conv_net()
    for node in net.graph.node if not named else ():
        node.ClearField("name")
    options = asked(telling, threads=1)
    for feeds in (None, {"image": IMAGE}) if telling.executes(options).available else (None,):
        found = telling.profile(net, options, feeds, runs=3)
        products = [node.stands_for[0] for node in found if node.role == "product"]
        # OpenVINO's clock counts microseconds, and each of these takes several.
        assert products == (["conv1", "conv2"] if named else ["c1", "c2"])
        assert {node.role for node in found} <= ROLES
        assert {node.precision for node in found if node.role == "product"} == {"fp32"}
        assert all(node.milliseconds >= 0 for node in found)


def test_knows_a_recurrent_layer_whatever_the_engine_calls_it(telling: Backend, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((1, 64, 8), np.float32), "r": rng.standard_normal((1, 64, 16), np.float32)}
    net = model(
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="lstm", hidden_size=16)],
        {"x": [5, 1, 8]},
        {"y": [5, 1, 1, 16]},
        constants,
    )
    engine = telling.compile(Program({"main": net}), asked(telling, threads=1), tmp_path)
    assert engine.effective["main"]["precision"]["macs_in"] == {"fp32": 5 * (64 * 8 + 64 * 16)}
    told = [n.stands_for[0] for n in telling.profile(net, asked(telling, threads=1)) if n.role == "product"]
    assert set(told) == {"lstm"}  # some engines do it in several kernels


def test_outputs_are_the_callers_to_keep(running: Backend) -> None:
    session = running.load(conv_net(), asked(running))
    first = session.run({"image": IMAGE})["features"]
    kept = first.copy()
    session.run({"image": IMAGE * 2})
    np.testing.assert_array_equal(first, kept)


def test_an_idle_session_leaves_the_cores_to_others(running: Backend) -> None:
    """Threads that spin after a run, as ONNX Runtime's do for 30 ms by default, make whatever runs beside it slower."""
    wide = graph("(float[1,512] x) => (float[1,4096] y) { y = MatMul(x, w) }", w=(512, 4096))
    session = running.load(wide, asked(running, threads=2))
    burnt = []
    for _ in range(5):
        session.run({"x": np.ones((1, 512), np.float32)})
        before = time.process_time()
        time.sleep(0.04)
        burnt.append(time.process_time() - before)
    assert statistics.median(burnt) < 0.005  # other tests' threads may be at work in a pause or two


def test_names_the_input_that_does_not_fit(running: Backend) -> None:
    session = running.load(conv_net(), asked(running))
    with pytest.raises(BadInput, match=r"input 'image' has shape \[2, 2, 8, 8\]; expected image: float32"):
        session.run({"image": IMAGE[:, :2]})
    with pytest.raises(BadInput, match="input 'image' is float64"):
        session.run({"image": IMAGE.astype(np.float64)})
    with pytest.raises(BadInput, match="missing input 'image'"):
        session.run({})


def test_runs_a_program_of_two_graphs_by_its_wiring(running: Backend, tmp_path: Path) -> None:
    graphs, wiring = counter()
    program = Program(graphs, Wiring(wiring["feeds"], wiring["state"], Stop(**wiring["stop"])))
    engine = running.compile(program, asked(running), tmp_path)
    sessions = {graph: running.open(tmp_path / file, engine.options) for graph, file in engine.files.items()}
    outputs = decode.run(sessions, program.wiring, {"begin": np.array([[2.0]], np.float32)})
    assert outputs["tokens"].tolist() == [[3, 4, 5]]


def test_a_graph_it_cannot_read_is_an_engine_failure(running: Backend) -> None:
    model = conv_net()
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(EngineFailed, match=getattr(running, "title", running.name)):
        running.load(model, asked(running))


def _numpy_conv_net(image: np.ndarray) -> np.ndarray:
    from onnx import numpy_helper

    weights = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in conv_net().graph.initializer}
    x = image.astype(np.float64)
    for layer in "12":
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        x = np.einsum("bchwij,ocij->bohw", windows, weights[f"w{layer}"]) + weights[f"b{layer}"][:, None, None]
        x = np.maximum(x, 0)
    return x.mean(axis=(2, 3))


def test_an_input_of_a_type_that_numpy_lacks_opens_and_is_told_at_the_first_run(running: Backend) -> None:
    from onnx import TensorProto

    ends = [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, [2])], [helper.make_tensor_value_info("y", 1, [2])]
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=1)], "main", *ends)
    session = running.load(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), asked(running, threads=1)
    )
    with pytest.raises(BadInput, match="input 'x' is float32"):
        session.run({"x": np.zeros(2, np.float32)})


def test_inputs_and_outputs_keep_their_names_where_an_engine_drops_what_does_nothing(running: Backend) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=1),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Identity", ["b"], ["c"]),
        helper.make_node("Identity", ["c"], ["y"]),
    ]
    session = running.load(model(nodes, {"x": [2]}, {"y": [2]}), asked(running, threads=1))
    assert ([s.name for s in session.inputs], [s.name for s in session.outputs]) == (["x"], ["y"])
    np.testing.assert_array_equal(session.run({"x": np.array([-1, 2], np.float32)})["y"], [0, 2])


def test_an_int8_layer_behind_a_maximum_gets_the_maximum(running: Backend) -> None:
    maxout = graph(
        """(float[batch,96] x) => (float[batch,32] y) {
            pairs = Reshape(x, shape)  a = ReduceMax <keepdims = 0> (pairs, axis)  y = Gemm(a, w) }""",
        shape=np.array([-1, 48, 2]),
        axis=np.array([2]),
        w=(48, 32),
    )
    maxout.opset_import[0].version = 21  # where every engine knows DequantizeLinear along an axis
    feeds = {"x": np.random.default_rng(0).standard_normal((4, 96)).astype(np.float32)}
    source = Program({"main": maxout}, history=(StageRecord("test", 0.0),))
    settings = Settings(qdq=running.qdq)
    quantized = quantize(source, "int8-static", backends.oracle, [Case("c", feeds)], settings)
    got = running.load(quantized.graphs["main"], asked(running, precision="int8", threads=1)).run(feeds)["y"]
    want = backends.oracle(source)["main"].run(feeds)["y"]
    # What INT8 is judged by; one engine fuses the quantizer into the ReduceMax and is left with 8 to 14 dB.
    assert 20 * np.log10(np.linalg.norm(want) / np.linalg.norm(got - want)) > 30
