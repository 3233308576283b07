"""What a test needs is its marker; what is missing here skips it with the reason, unless it was promised to be here."""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeattn.backends  # before any engine: it switches their telemetry off
from tests.warm import EXPORTER, Warm

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers with two threads each starve one another

ROOT = Path(__file__).parent.parent

ENGINES = {"torch": "torch", "onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt_rtx": "tensorrt_rtx"}
EXTRAS = {"torch": "export", "tensorrt_rtx": "tensorrt-rtx"}
PROMISED = [name for name in os.environ.get("EDGEATTN_REQUIRE", "").split(",") if name]


def missing(name: str) -> bool:
    return importlib.util.find_spec(ENGINES[name]) is None


def pytest_configure(config: pytest.Config) -> None:
    unknown = [name for name in PROMISED if name not in ENGINES]
    absent = [name for name in PROMISED if name not in unknown and missing(name)]
    if unknown or absent:
        raise pytest.UsageError(f"EDGEATTN_REQUIRE: not here: {', '.join(unknown + absent)}")


def pytest_unconfigure() -> None:
    if _warm.cache_info().currsize:
        _warm().__exit__()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in ENGINES:
        if item.get_closest_marker(name) and missing(name):
            pytest.skip(f"needs {name}: pip install 'edgeattn[{EXTRAS.get(name, name)}]'")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What edgeattn keeps across runs goes into no user's cache, and comes out of none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEATTN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@functools.cache
def _warm() -> Warm:
    """One helper a process, ended with the tests."""
    return Warm(preloaded=EXPORTER if not missing("torch") else ())


def edgeattn(*arguments: object, cwd: Path | None = None, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """The command line as a user starts it, but that Python has its imports already; it cannot reach a terminal."""
    try:
        done = _warm().run(*arguments, cwd=cwd or ROOT, timeout=timeout)
    except BaseException:  # the helper is in the middle of something
        _warm.cache_clear()
        raise
    return subprocess.CompletedProcess(["edgeattn", *map(str, arguments)], done.code, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real run: CBAM on digits, INT8, OpenVINO. Shared by all workers: who changes something copies it first."""
    return _run("cbam_digits.openvino.int8", tmp_path_factory)


@pytest.fixture(scope="session")
def dates_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One real run: the Luong translator on dates, FP32, ONNX Runtime."""
    return _run("luong_dates.onnxruntime.fp32", tmp_path_factory)


QUICK = ("--set", "latency.pairs=20", "--set", "latency.threads=1")
UNTIMED = ("--set", "rewrite.measure=false")  # the same graph on every machine, and no time spent choosing it


def _run(recipe: str, factory: pytest.TempPathFactory) -> Path:
    """The first worker that wants a run makes it; the others wait for it."""
    base = factory.getbasetemp()
    runs = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"runs-{recipe}"
    runs.mkdir(exist_ok=True)
    out = runs / recipe
    with (runs / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            config = ROOT / "export_configs" / f"{recipe}.yaml"
            done = edgeattn("run", config, "-o", out, *QUICK, *UNTIMED, "--quiet")
            assert done.returncode == 0, done.stderr + done.stdout
    return out
