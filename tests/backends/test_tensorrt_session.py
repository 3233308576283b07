"""The session's own logic, on a device of host memory (:mod:`tests.backends.device`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgeattn import decode
from edgeattn.backends import _cuda
from edgeattn.backends._tensorrt_load import LoadedSession, span_for
from edgeattn.backends._tensorrt_plan import Facts
from edgeattn.backends._tensorrt_session import TensorRtSession
from edgeattn.errors import BadInput, EngineFailed, OutOfResources
from edgeattn.harness import latency
from edgeattn.profile import Bucket
from edgeattn.program import Stop, Wiring
from tests.backends.device import PACKAGE, Compute, Engine, Runtime
from tests.graphs import model

BUCKETS = ({"batch": (1, 1, 1)}, {"batch": (2, 4, 8)})


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    found = Runtime()
    monkeypatch.setattr(_cuda, "_runtime", lambda: found)
    return found


def session(runtime: Runtime, tensors: dict[str, Any], compute: Compute) -> TensorRtSession:
    names = {name: ("batch", *shape[1:]) for name, (_, shape, _) in tensors.items()}
    facts = Facts("tensorrt", "10.3.0", "", 0, ("sm87",), profiles=BUCKETS, tensors=names)
    return TensorRtSession(PACKAGE, Engine(runtime, tensors, compute), facts)


def doubling(runtime: Runtime) -> TensorRtSession:
    tensors = {"x": ("in", (-1, 3), "float32"), "y": ("out", (-1, 3), "float32")}
    return session(runtime, tensors, lambda given: {"y": given["x"] * 2})


def test_names_the_dimensions_as_the_graph_did_and_gives_outputs_to_keep(runtime: Runtime) -> None:
    opened = doubling(runtime)
    assert [str(s) for s in (*opened.inputs, *opened.outputs)] == ["x: float32[batch, 3]", "y: float32[batch, 3]"]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    first = opened.run({"x": x})["y"]
    opened.run({"x": x + 1})
    np.testing.assert_array_equal(first, x * 2)


def test_replays_a_shape_from_its_second_time_on_and_never_with_stale_addresses(runtime: Runtime) -> None:
    opened = doubling(runtime)
    for size, launched in ((2, 0), (2, 1), (2, 2), (4, 2), (4, 3), (2, 3), (2, 4), (1, 4), (2, 4), (2, 5)):
        x = np.random.default_rng(size).standard_normal((size, 3)).astype(np.float32)
        np.testing.assert_array_equal(opened.run({"x": x})["y"], x * 2)
        assert runtime.launched == launched, f"batch {size}"


def test_takes_arrays_as_they_lie_in_memory(runtime: Runtime) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4).T[:3]
    np.testing.assert_array_equal(doubling(runtime).run({"x": x})["y"], x * 2)


def test_feeds_that_fit_no_bucket_are_told_which_do(runtime: Runtime) -> None:
    opened = doubling(runtime)
    message = "the engine was not built for batch=9; it takes batch 1 or batch 2 to 8; --profile builds for others"
    with pytest.raises(BadInput, match=message):
        opened.run({"x": np.zeros((9, 3), np.float32)})
    with pytest.raises(BadInput, match="input 'x' is float64"):
        opened.run({"x": np.zeros((2, 3))})
    with pytest.raises(BadInput, match="missing input 'x'"):
        opened.run({})


def test_a_decoders_state_stays_on_the_device_and_what_never_changes_goes_there_once(runtime: Runtime) -> None:
    """Each step adds the keys to its state; the token is what it emits most of."""
    tensors = {
        "token": ("in", (-1,), "int64"),
        "h": ("in", (-1, 4), "float32"),
        "keys": ("in", (-1, 4), "float32"),
        "h_out": ("out", (-1, 4), "float32"),
        "logits": ("out", (-1, 4), "float32"),
    }

    def step(given: Any) -> dict[str, np.ndarray]:
        h = given["h"] + given["keys"] + given["token"][:, None]
        return {"h_out": h, "logits": np.sin(h * np.arange(1, 5))}

    class Plain:
        """The same step in NumPy, every tensor passed along by the loop."""

        inputs, outputs = session(Runtime(), tensors, step).inputs, ()

        def run(self, feeds: Any) -> dict[str, np.ndarray]:
            return {name: value.astype(np.float32) for name, value in step(feeds).items()}

    class Encoder(Plain):
        inputs = tuple(s for s in Plain.inputs if s.name == "keys")

        def run(self, feeds: Any) -> dict[str, np.ndarray]:
            return {"keys_out": feeds["keys"] + 1}

    wiring = Wiring(
        {"step.keys": "encoder.keys_out"}, {"step.h": "step.h_out"}, Stop("step.token", "step.logits", 1, 9, 6)
    )
    feeds = {"keys": np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)}
    want = decode.run({"encoder": Encoder(), "step": Plain()}, wiring, feeds)
    opened = session(runtime, tensors, step)
    for _ in range(2):  # a second sequence begins with its own state and keys
        runtime.copies.clear()
        got = decode.run({"encoder": Encoder(), "step": opened}, wiring, feeds)
        assert {name: value.tolist() for name, value in got.items()} == {k: v.tolist() for k, v in want.items()}
        steps = want["tokens"].shape[1]
        assert runtime.copies["up"] == 3 + (steps - 1)  # all once, then the token alone
        assert runtime.copies["across"] == steps - 1


def test_a_run_on_inputs_that_stay_on_the_device_copies_nothing_and_is_replayed(runtime: Runtime) -> None:
    opened = doubling(runtime)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    queue = opened.resident({"x": x})
    assert queue.graph == ""
    runtime.copies.clear()
    for launched in (1, 2, 3):
        queue()
        assert (runtime.launched, runtime.copies.total()) == (launched, 0)
    assert queue.graph == "edgeattn"
    np.testing.assert_array_equal(queue.outputs()["y"], x * 2)
    assert runtime.copies == {"down": 1}


def test_what_lies_on_the_device_is_not_passed_off_as_other_inputs_answer(runtime: Runtime) -> None:
    opened = doubling(runtime)
    queue = opened.resident({"x": np.zeros((2, 3), np.float32)})
    opened.run({"x": np.ones((2, 3), np.float32)})
    for late in (queue, queue.outputs):
        with pytest.raises(EngineFailed, match="the session ran on other inputs since these were left on the device"):
            late()


def test_whoever_times_a_run_is_told_of_its_copies(runtime: Runtime) -> None:
    graph = model([helper.make_node("Add", ["x", "x"], ["y"])], {"x": ["batch", 3]}, {"y": ["batch", 3]})
    for session in (doubling(runtime), LoadedSession("tensorrt", graph, lambda bucket: doubling(runtime), ())):
        assert latency.unit_of([session], False) == "inference with copies to the GPU and back"
    assert latency.unit_of([object()], True) == "sequence"


def test_a_stopwatch_reads_the_devices_time_of_its_own_stream(runtime: Runtime) -> None:
    queue = doubling(runtime).resident({"x": np.zeros((2, 3), np.float32)})
    watch, elsewhere = _cuda.Stopwatch(queue.cuda), _cuda.Stopwatch(queue.cuda, 3)
    for runs in (1, 4, 0):
        watch.start()
        elsewhere.start()
        for _ in range(runs):
            queue()
        assert (watch.stop(), elsewhere.stop()) == (2.5 * runs, 0.0)


def test_what_cuda_refuses_is_one_line(runtime: Runtime) -> None:
    cuda = _cuda.Cuda()

    def failing(name: str) -> Any:
        def cudaMalloc(size: int) -> tuple[Any, ...]:
            from types import SimpleNamespace

            return (SimpleNamespace(name=name),)

        return cudaMalloc

    with pytest.raises(OutOfResources, match="CUDA: the GPU ran out of memory"):
        cuda.call(failing("cudaErrorMemoryAllocation"), 8)
    with pytest.raises(EngineFailed, match="CUDA: cudaMalloc: cudaErrorDevicesUnavailable"):
        cuda.call(failing("cudaErrorDevicesUnavailable"), 8)


def test_a_graph_in_memory_is_built_for_what_it_is_given_and_rarely_again(runtime: Runtime) -> None:
    made: list[Bucket] = []

    def make(bucket: Bucket) -> TensorRtSession:
        made.append(bucket)
        opened = doubling(runtime)
        opened._buckets = (bucket,)
        return opened

    graph = model([helper.make_node("Add", ["x", "x"], ["y"])], {"x": ["batch", 3]}, {"y": ["batch", 3]})
    loaded = LoadedSession("tensorrt", graph, make, ())
    assert made == []
    for size in (3, 4, 1, 5, 8, 2):
        x = np.full((size, 3), size, np.float32)
        np.testing.assert_array_equal(loaded.run({"x": x})["y"], x * 2)
    assert made == [{"batch": (1, 3, 4)}, {"batch": (1, 5, 8)}]
    assert (span_for(0), span_for(1), span_for(17)) == ((0, 0, 1), (1, 1, 1), (1, 17, 32))
    with pytest.raises(BadInput, match=r"input 'x' has shape \[2, 4\]"):
        loaded.run({"x": np.zeros((2, 4), np.float32)})
