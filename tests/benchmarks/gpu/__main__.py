"""Our engines on one NVIDIA GPU beside what you would use instead: ``python -m tests.benchmarks.gpu [MODEL ...]``.

CBAM-ResNet-50, ResNet-50, SE-ResNet-50, ViT-S/16 and a step of a Luong translator (2 × LSTM-512, source 30), batch 1:
our engines in FP32, FP16 and INT8, PyTorch eager, ``torch.compile`` and ONNX Runtime CUDA, all in one process, in
rounds of random order, timed by CUDA events with every tensor on the device; the wall clock, waiting included, stands
beside.
Each one's outputs are held to PyTorch's in FP32 on the CPU at the limits of its precision. A runtime that refuses this
GPU is quoted.

It ends within ``--seconds`` (300), preparing included, dropping what does not fit; it also runs without a GPU, where
contenders that need one say so and the wall clock is read. What was measured lies in ``--folder`` after each model:
``results.json``, and ``page.md`` to put into a document.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgeattn.harness import environment, latency, parity
from edgeattn.harness.limits import Limits
from edgeattn.report.schema import worst
from tests.benchmarks.gpu import page
from tests.benchmarks.gpu.clock import Clock
from tests.benchmarks.gpu.contenders import Contender, LeftOut, Machine, Running, contenders, machine, started
from tests.benchmarks.gpu.subjects import NAMES, Subject, load, prepare

QUERY = (
    *("name", "driver_version", "compute_cap", "memory.total", "power.limit", "temperature.gpu"),
    *("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
)
ROUNDS = 40
LEAST_S = 20.0
"""Seconds that must be left for another contender to start: rounds and what comes after them need them."""
Found = dict[str, Any]


def gpu() -> dict[str, str]:
    """What ``nvidia-smi`` says of the first GPU; nothing where there is none. It changes no setting."""
    try:
        asked = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(QUERY, (word.strip() for word in said.splitlines()[0].split(",")), strict=False)) if said else {}


def prepared(names: Sequence[str], folder: Path, deadline: float) -> dict[str, str]:
    """Prepare what is not prepared yet, each model in a process of its own; why one could not be."""
    left = [name for name in names if not (folder / name / "int8.npz").exists()]
    failed: dict[str, str] = {}
    at_once = max(1, (os.cpu_count() or 1) // 3)
    while left:
        now, left = left[:at_once], left[at_once:]
        command = [sys.executable, "-m", "tests.benchmarks.gpu", "--folder", str(folder), "--prepare"]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        running = {name: subprocess.Popen([*command, name], **pipes) for name in now}  # type: ignore[call-overload]
        for name, process in running.items():
            try:
                _, said = process.communicate(timeout=max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                said = process.communicate()[1] or "no time was left to prepare it"
            if process.returncode:
                failed[name] = (said.strip().splitlines() or ["without a word"])[-1]
    return failed


def measure(subject: Subject, here: Machine, rows: Sequence[Contender], rounds: int, deadline: float) -> Found:
    """Start everyone, judge their outputs, and time them in the same rounds."""
    runs: dict[str, Running] = {}
    judged: dict[str, Found] = {}
    left_out: dict[str, str] = {}
    for contender in rows:
        try:
            if time.monotonic() + LEAST_S > deadline:
                raise LeftOut("no time was left")
            runs[contender.title], outputs = started(contender, subject, here)
            judged[contender.title] = judge(subject, contender, runs[contender.title], outputs)
        except LeftOut as error:
            left_out[contender.title] = str(error)
    timed = time_all(runs, here.clock(), rounds, max(5.0, deadline - time.monotonic() - LEAST_S / 2)) if runs else {}
    entries = [
        {
            "contender": c.title,
            "precision": c.precision,
            **({"left out": left_out[c.title]} if c.title in left_out else {**timed[c.title], **judged[c.title]}),
        }
        for c in rows
    ]
    _against_eager(entries)
    return {"model": subject.name, "clock": here.clock().name, "contenders": entries}


def judge(subject: Subject, contender: Contender, running: Running, outputs: Mapping[str, np.ndarray]) -> Found:
    """A contender's outputs against PyTorch's, at the limits of its precision."""
    case = subject.cases[contender.precision]
    found = parity.judge("engine", lambda _: outputs, [case], Limits.of(contender.precision)).outputs
    told = [f"{name}: {o.why or o.observed}" for name, o in found.items() if o.verdict != "pass"]
    return {
        "parity": worst(o.verdict for o in found.values()),
        "sqnr_db": min((o.sqnr_db for o in found.values() if o.sqnr_db is not None), default=None),
        "max_abs": {name: o.max_abs for name, o in found.items()},
        "parity said": told,
        "graph": running.graph(),
        "facts": dict(running.facts),
    }


def _against_eager(entries: Sequence[Found]) -> None:
    """How many times PyTorch's own error in FP16 each FP16 contender makes, on its worst output; 2 is the limit."""
    known = {entry["contender"]: entry.get("max_abs") for entry in entries}
    eager = known.get("PyTorch eager, FP16")
    for entry in entries if eager else ():
        if entry["precision"] == "fp16" and entry.get("max_abs"):
            shares = [value / eager[name] for name, value in entry["max_abs"].items() if value and eager.get(name)]
            entry["error of eager's"] = max(shares, default=None)


def time_all(runs: Mapping[str, Running], clock: Clock, rounds: int, seconds: float) -> dict[str, Found]:
    """Everyone in the same rounds, the first the baseline; ``seconds`` are the wall's, the clock may stand still."""
    calls = {title: clock.timed(title, run.queue, run.stream) for title, run in runs.items()}
    found = latency.compare_many(calls, pairs=rounds, max_seconds=seconds / 2, clock=clock)
    return {
        entry.name: {
            "p50_ms": entry.latency.p50_ms,
            "p90_ms": entry.latency.p90_ms,
            "wall_ms": clock.wall_ms(entry.name),
            "speed": None if entry.speedup is None else entry.speedup.median,
            "ci95": None if entry.speedup is None else list(entry.speedup.ci95),
            "control": None if entry.aa_control is None else list(entry.aa_control.ci95),
            "rounds": found.rounds,
        }
        for entry in found.entries
    }


def about(here: Machine) -> Found:
    """The machine, for the page."""
    told = environment.describe()
    import torch

    versions = {**told.versions, "CUDA of PyTorch": torch.version.cuda, "cuDNN": torch.backends.cudnn.version()}
    versions["tensor carrier"] = _version("cuda-bindings")
    return {
        "gpu": gpu(),
        "cpu": told.cpu,
        "cores": told.cores,
        "without a GPU": here.why,
        "versions": {name: str(version) for name, version in versions.items() if version},
    }


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return ""


def run(asked: argparse.Namespace) -> Found:
    """Every model that was asked for, kept as it comes."""
    deadline = time.monotonic() + asked.seconds
    folder: Path = asked.folder
    folder.mkdir(parents=True, exist_ok=True)
    failed = prepared(asked.names, folder, deadline)
    here = machine()
    rows = [c for c in contenders() if not asked.only or any(word in c.title for word in asked.only)]
    result: Found = {**about(here), "models": [], "seconds": asked.seconds}
    for i, name in enumerate(asked.names):
        share = time.monotonic() + (deadline - time.monotonic()) / (len(asked.names) - i)
        if name in failed:
            result["models"].append({"model": name, "left out": failed[name], "contenders": []})
        else:
            before = gpu()
            try:
                found = measure(load(name, folder / name), here, rows, asked.rounds, share)
            except Exception as error:  # what was measured before it is worth keeping
                found = {"model": name, "left out": f"{type(error).__name__}: {error}", "contenders": []}
            result["models"].append({**found, "gpu before": before, "gpu after": gpu()})
            _forget()
        (folder / "results.json").write_text(json.dumps(result, indent=1, default=_plain))
        (folder / "page.md").write_text(page.section(result), encoding="utf-8")
        print(page.table(result["models"][-1]), flush=True)
    return result


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _forget() -> None:
    """Give the device's memory back before the next model."""
    import torch

    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES), help="zoo members")
    parser.add_argument("--folder", type=Path, default=Path("build/gpu"))
    parser.add_argument("--seconds", type=float, default=300.0, help="of the whole run")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the first attempt; a restless one is repeated")
    parser.add_argument("--only", action="append", metavar="WORD", help="contenders whose title has this word")
    parser.add_argument("--prepare", metavar="MODEL", help="write what one model needs and end: no GPU is used")
    asked = parser.parse_args(arguments)
    if asked.prepare:
        prepare(asked.prepare, asked.folder / asked.prepare)
        return 0
    run(asked)
    return 0


if __name__ == "__main__":
    sys.exit(main())
