"""The comparison on a GPU: what of it runs without one, and its clock on a device of host memory."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from edgeattn.backends import _cuda
from edgeattn.backends import _nvidia as nvidia
from edgeattn.harness import latency
from edgeattn.harness.limits import Limits
from edgeattn.harness.parity import judge
from tests.backends.device import Runtime
from tests.backends.test_tensorrt_session import doubling
from tests.benchmarks.gpu import page
from tests.benchmarks.gpu.__main__ import run
from tests.benchmarks.gpu.clock import EventClock
from tests.benchmarks.gpu.contenders import Bound, LeftOut, Machine, contenders, started
from tests.benchmarks.gpu.subjects import Subject, load, prepare

MODEL = "luong_dates"
pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The step of a small translator, prepared in every precision."""
    place = tmp_path_factory.mktemp("gpu")
    prepare(MODEL, place / MODEL)
    return place


@pytest.fixture
def subject(folder: Path) -> Subject:
    return load(MODEL, folder / MODEL)


@pytest.mark.skipif(bool(nvidia.capabilities()), reason="it shows what is left out where there is no GPU")
def test_without_a_gpu_it_runs_and_names_who_is_left_out(folder: Path) -> None:
    only = ["eager, FP32", "RTX, INT8", "CUDA, FP16", "compile, FP32"]
    run(Namespace(names=[MODEL], folder=folder, seconds=120.0, rounds=20, only=only, prepare=None))
    (found,) = json.loads((folder / "results.json").read_text())["models"]
    told = {entry["contender"]: entry.get("left out", "") for entry in found["contenders"]}
    none = "this machine has no NVIDIA GPU"
    assert told["ONNX Runtime CUDA, FP16"] == told["torch.compile, FP32"] == none
    assert none in told["edgeattn, TensorRT for RTX, INT8"]
    (eager,) = (entry for entry in found["contenders"] if "left out" not in entry)
    assert (eager["contender"], eager["parity"], found["clock"]) == ("PyTorch eager, FP32", "pass", "perf_counter")
    assert eager["p50_ms"] > 0
    text = (folder / "page.md").read_text()
    assert f"No GPU: {none}" in text
    assert "| PyTorch eager, FP32 | " in text
    assert f"- torch.compile, FP32 did not run: {none}" in text


def test_every_precision_is_fed_and_judged_by_what_its_own_graph_takes(subject: Subject) -> None:
    """Bound as on a GPU, to the memory of the host; limits are those of the precision."""
    for precision in ("fp32", "fp16", "int8"):
        queue = Bound(("CPUExecutionProvider", {}), "cpu", precision, subject)
        queue()
        found = judge("engine", lambda _, q=queue: q.outputs(), [subject.cases[precision]], Limits.of(precision))  # type: ignore[misc]
        assert {name: o.verdict for name, o in found.outputs.items() if o.verdict == "fail"} == {}
        assert set(found.outputs) == set(subject.cases[precision].outputs) != set()


def test_a_contender_that_breaks_is_quoted_and_takes_no_other_down(subject: Subject) -> None:
    broken = Subject(subject.name, subject.graph, {}, subject.models, subject.cases)
    with pytest.raises(LeftOut, match="KeyError: 'token'"):
        started(contenders()[0], broken, Machine("cpu", None, None))


def test_the_devices_events_are_the_clock_and_the_wall_is_told_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    monkeypatch.setattr(_cuda, "_runtime", lambda: runtime)
    reads = iter(range(0, 10**15, 7_000_000))  # every reading of the wall is 7 ms later
    quick, slow = doubling(runtime), doubling(runtime)
    slow._engine.milliseconds = 10.0
    queues = {name: s.resident({"x": np.ones((2, 3), np.float32)}) for name, s in (("slow", slow), ("quick", quick))}
    clock = EventClock(queues["slow"].cuda, lambda: next(reads))
    calls = {name: clock.timed(name, queue, queue.cuda.stream) for name, queue in queues.items()}
    first, other = latency.compare_many(calls, pairs=20, clock=clock).entries
    assert (first.latency.p50_ms, other.latency.p50_ms) == pytest.approx((10.0, 2.5))
    assert other.speedup is not None
    assert other.speedup.median == pytest.approx(4.0)
    assert (clock.wall_ms("quick"), clock.wall_ms("unknown")) == (7.0, None)


@pytest.mark.tensorrt_rtx
@pytest.mark.skipif(bool(nvidia.capabilities()), reason="it shows what the runtime says where there is no driver")
def test_a_runtime_that_refuses_the_gpu_is_quoted_for_every_plan(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(nvidia, "capabilities", lambda: ("sm90",))
    here: Any = Machine("cuda", 7, object())  # type: ignore[arg-type]  # asked for nothing before a plan is open
    (ours,) = (c for c in contenders() if c.title == "edgeattn, TensorRT for RTX, FP16")
    with pytest.raises(LeftOut) as left:
        started(ours, subject, here)
    plans = str(left.value).split("; sm")
    assert plans[0].startswith("current: not built, TensorRT for RTX: IBuilder::buildSerializedNetwork")
    assert [plan.partition(":")[0] for plan in plans[1:]] == ["120", "89", "80"]
    for plan in plans[1:]:
        assert "MB in" in plan
        assert "the plan is not valid here: Error reading CUDA GPU properties" in plan


def test_a_page_tells_of_each_plan_that_was_refused_and_of_what_was_not_measured() -> None:
    facts = {"built for": "current", "bytes": 1500, "seconds": 1.25, "refused": {"sm89": {"said": "unsupported\ncc"}}}
    entry = {
        **{"contender": "edgeattn, A|B", "precision": "fp16", "p50_ms": 0.5, "wall_ms": 0.625, "speed": 2.0},
        **{"ci95": [1.9, 2.1], "control": [0.99, 1.01], "parity": "pass", "sqnr_db": 51.26, "graph": "library"},
        **{"facts": facts, "parity said": [], "error of eager's": 0.75},
    }
    after = {"clocks.sm": "1980 MHz", "temperature.gpu": "41"}
    drawn = page.table({"model": "resnet50", "contenders": [entry], "gpu after": after})
    assert "### ResNet-50\n" in drawn
    assert "| edgeattn, A\\|B | 0.500 | 0.625 | 2.00 | 1.90 to 2.10 | 0.990 to 1.010 | pass | 51.3 | library |" in drawn
    for line in (
        "built for current: 1,500 bytes in 1.2 s",
        "the runtime refused the plan for sm89: unsupported cc",
        "error 0.75 times eager's in FP16",
    ):
        assert f"- edgeattn, A|B: {line}\n" in drawn
    assert "- Clocks after: 1980 MHz SM, 41 °C" in drawn
    assert "Not measured: no time" in page.table({"model": "x", "left out": "no time", "contenders": []})
