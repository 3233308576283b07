"""The worker process at the real command line: real signals and limits, and a model on which an engine never ends."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper

from tests import corpus
from tests.conftest import ROOT
from tests.graphs import conv_net
from tests.test_publish import _can_mount

pytestmark = pytest.mark.onnxruntime
PATIENCE_S = 60  # for what takes a second on an idle machine


def endless() -> onnx.ModelProto:
    """A sound model whose Loop adds 1 for 2^62 rounds: an engine runs it and does not come back."""
    boolean, integer = TensorProto.BOOL, TensorProto.INT64
    body = helper.make_graph(
        [corpus.node("Add", ["sum", "one"], ["next"]), corpus.node("Identity", ["go"], ["on"])],
        "body",
        [corpus.value("i", [], integer), corpus.value("go", [], boolean), corpus.value("sum")],
        [corpus.value("on", [], boolean), corpus.value("next")],
        [numpy_helper.from_array(np.ones((1, 4), np.float32), "one")],
    )
    rounds = [
        numpy_helper.from_array(np.array(1 << 62), "rounds"),
        numpy_helper.from_array(np.array(True), "true"),
    ]
    return corpus.model([corpus.node("Loop", ["rounds", "true", "x"], ["y"], body=body)], constants=rounds)


def filling(count: int) -> onnx.ModelProto:
    """A model with an intermediate value of ``count`` floats whose size no shape inference sees."""
    nodes = [
        corpus.node("ReduceMax", ["x"], ["m"], keepdims=0),  # at most 64 standard deviations: the cases are drawn so
        corpus.node("Mul", ["m", "zero"], ["none"]),
        corpus.node("Cast", ["none"], ["nothing"], to=TensorProto.INT64),
        corpus.node("Add", ["nothing", "count"], ["sizes"]),
        corpus.node("ConstantOfShape", ["sizes"], ["many"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        corpus.node("ReduceSum", ["many"], ["s"], keepdims=0),
        corpus.node("Add", ["x", "s"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.array([count]), "count"),
    ]
    return corpus.model(nodes, constants=constants)


@contextmanager
def edgeattn(*arguments: object, **more: object) -> Iterator[subprocess.Popen[str]]:
    """The command line in a session of its own, killed if the test leaves it running."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeattn", *map(str, arguments)],
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        **{"stdout": subprocess.PIPE, "cwd": ROOT, **more},
    )  # type: ignore[call-overload]  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def worker_of(process: subprocess.Popen[str]) -> int:
    """The worker's process number."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return int(until(lambda: children.read_text().split())[0])


def in_the_engine(process: subprocess.Popen[str]) -> int:
    """The worker's process number once ONNX Runtime has been running the endless graph for a while."""
    worker = worker_of(process)
    until(lambda: seconds_used(worker) > 1.2)  # loading everything takes 0.5 s
    return worker


def seconds_used(pid: int) -> float:
    """Computing time of a process so far; infinite once it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def until(look: Callable[[], object], patience: float = PATIENCE_S) -> object:
    end = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def stuck(tmp_path: Path) -> Path:
    onnx.save(endless(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def ends(process: subprocess.Popen[str], code: int, line: str) -> None:
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert stderr == f"edgeattn: error: {line}\n"
    assert process.returncode == code
    assert stdout == ""


CRASHES = [
    (signal.SIGSEGV, 4, "ONNX Runtime died by SIGSEGV while running the graph; nothing was written; the file may be"),
    (signal.SIGABRT, 4, "ONNX Runtime died by SIGABRT while running the graph; nothing was written; the file may be"),
    (signal.SIGBUS, 4, "ONNX Runtime died by SIGBUS while running the graph; nothing was written; the file may be"),
    (signal.SIGKILL, 5, "ONNX Runtime was killed (SIGKILL) while running the graph, as the kernel does when memory"),
]


@pytest.mark.parametrize(("number", "code", "said"), CRASHES, ids=[number.name for number, _, _ in CRASHES])
def test_a_native_crash_is_told_by_name_and_not_inherited(
    number: signal.Signals, code: int, said: str, stuck: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    with edgeattn("rewrite", stuck, "-o", out, "-q") as process:
        os.kill(in_the_engine(process), number)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    (line,) = stderr.splitlines()  # nothing of what the fault handler or the C library print
    assert line.startswith(f"edgeattn: error: {stuck}: {said}")
    assert process.returncode == code
    assert list(tmp_path.iterdir()) == [stuck]


def test_debug_shows_where_in_python_the_native_crash_was(stuck: Path, tmp_path: Path) -> None:
    with edgeattn("rewrite", stuck, "-o", tmp_path / "out.onnx", "--debug") as process:
        os.kill(in_the_engine(process), signal.SIGSEGV)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    assert "Fatal Python error: Segmentation fault" in stderr
    assert "_onnxruntime_session.py" in stderr
    assert stderr.splitlines()[-1].startswith(f"edgeattn: error: {stuck}: ONNX Runtime died by SIGSEGV")


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "the terminal was closed"),
    ],
)
@pytest.mark.parametrize("to", ["process", "group"])
def test_a_signal_ends_even_an_engine_that_does_not_listen(
    number: signal.Signals, code: int, said: str, to: str, stuck: Path, tmp_path: Path
) -> None:
    with edgeattn("rewrite", stuck, "-o", tmp_path / "out.onnx", "-q") as process:
        worker = in_the_engine(process)
        (os.kill if to == "process" else os.killpg)(process.pid, number)  # a terminal signals the whole group
        ends(process, code, f"{said}; nothing was written")
    assert gone(worker)
    assert list(tmp_path.iterdir()) == [stuck]


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2, 0.4])
def test_ctrl_c_at_any_moment_is_one_line_and_leaves_nothing(delay: float, stuck: Path, tmp_path: Path) -> None:
    with edgeattn("rewrite", stuck, "-o", tmp_path / "out.onnx", "-q") as process:
        worker = worker_of(process)  # from here on the signal has somewhere to go
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        ends(process, 130, "interrupted; nothing was written")
    assert gone(worker)
    assert list(tmp_path.iterdir()) == [stuck]


def test_the_worker_does_not_outlive_its_parent(stuck: Path, tmp_path: Path) -> None:
    with edgeattn("rewrite", stuck, "-o", tmp_path / "out.onnx") as process:
        worker = in_the_engine(process)
        process.kill()
        until(lambda: gone(worker), 5)


def test_an_engine_that_hangs_runs_out_of_time(stuck: Path, tmp_path: Path) -> None:
    with edgeattn("rewrite", stuck, "-o", tmp_path / "out.onnx", "-q", "--timeout", 8) as process:
        said = (
            "ONNX Runtime took longer than 8 s while running the graph; nothing was written; allow more with --timeout"
        )
        ends(process, 5, f"{stuck}: {said}")
    assert list(tmp_path.iterdir()) == [stuck]


def test_a_stopped_worker_runs_out_of_time_too(stuck: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "EDGEATTN_TIMEOUT": "10"}
    with edgeattn("rewrite", stuck, "-o", tmp_path / "out.onnx", "-q", env=environment) as process:
        worker = in_the_engine(process)
        os.kill(worker, signal.SIGSTOP)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    assert "took longer than 10 s" in stderr
    assert process.returncode == 5
    assert gone(worker)


def test_a_model_that_fills_the_memory_is_out_of_resources(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(filling(300_000_000), path)
    before = {**os.environ, "EDGEATTN_MEMORY": "800M"}
    with edgeattn("rewrite", path, "-o", tmp_path / "out.onnx", "-q", env=before) as process:
        _, stderr = process.communicate(timeout=PATIENCE_S)
    (line,) = stderr.splitlines()
    assert line.startswith(f"edgeattn: error: {path}: ")
    assert "ran out of memory" in line
    assert process.returncode == 5
    assert list(tmp_path.iterdir()) == [path]


def test_a_memory_limit_that_is_no_size_is_a_usage_error() -> None:
    with edgeattn("--version", env={**os.environ, "EDGEATTN_MEMORY": "much"}) as process:
        ends(process, 2, "EDGEATTN_MEMORY: 'much' is no size; give a size like 4G or 512M, or 0 for no limit")


def test_killed_at_any_moment_the_output_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(conv_net(), path)
    with edgeattn("rewrite", path, "-o", out, "-q") as process:
        assert process.wait(PATIENCE_S) == 0
    new = out.read_bytes()
    codes = set()
    for seconds in (0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7):  # of computing; the whole takes about 0.5
        out.write_bytes(b"old")
        with edgeattn("rewrite", path, "-o", out, "--force", "-q") as process:
            worker = worker_of(process)
            until(lambda worker=worker, seconds=seconds: seconds_used(worker) > seconds)
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
            _, stderr = process.communicate(timeout=PATIENCE_S)
        codes.add(process.returncode)
        assert out.read_bytes() in ((new,) if process.returncode == 0 else (b"old", new)), stderr
        assert sorted(tmp_path.iterdir()) == [path, out]
    assert 5 in codes
    assert codes <= {0, 5}


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))


def test_a_disk_that_is_full_leaves_the_old_output(tmp_path: Path) -> None:
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(conv_net(), path)
    out.write_bytes(b"old")
    with edgeattn("rewrite", path, "-o", out, "--force", "-q", preexec_fn=small_files) as process:
        ends(process, 5, f"{out}: the file size limit is reached; nothing was replaced; free some and run again")
    assert out.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [path, out]


@pytest.mark.skipif(not _can_mount(), reason="needs root or user namespaces to mount a small tmpfs")
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [("size=8k", 5, "the disk is full"), ("ro", 5, "the file system is read-only")],
)
def test_a_small_or_read_only_disk_is_told(options: str, code: int, said: str, tmp_path: Path) -> None:
    path, disk = tmp_path / "model.onnx", tmp_path / "disk"
    disk.mkdir()
    onnx.save(conv_net(), path)
    script = (
        f'mount -t tmpfs -o {options} none "$1"\n'
        '"$2" -m edgeattn rewrite "$3" -o "$1/out.onnx" -q; code=$?\n'
        'ls -A "$1"; exit $code'
    )
    command = ["unshare", "-m", "sh", "-c", script, "sh", disk, sys.executable, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.startswith(f"edgeattn: error: {disk}/out.onnx: {said}; ")
    assert len(done.stderr.splitlines()) == 1
    assert (done.returncode, done.stdout) == (code, "")


@pytest.mark.parametrize(
    "line",
    [
        "exec env -u HOME LANG=C {python} -m edgeattn inspect {file}",
        "exec {python} -m edgeattn inspect {file} <&- >&-",
        "exec {python} -m edgeattn inspect {file} 2>&-",
        "mkdir {folder}/d; cd {folder}/d; rmdir {folder}/d; exec {python} -m edgeattn inspect {file}",
        "ulimit -n 16; exec {python} -m edgeattn inspect {file}",
    ],
    ids=["no HOME", "stdin and stdout closed", "stderr closed", "cwd deleted", "ulimit -n 16"],
)
def test_an_odd_environment_is_no_reason_to_fail(line: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(corpus.model(), path)
    command = line.format(python=sys.executable, file=path, folder=tmp_path)
    done = subprocess.run(
        ["sh", "-c", command], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_an_answer_that_cannot_be_written_is_out_of_resources(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(corpus.model(), path)
    with open("/dev/full", "w") as full, edgeattn("inspect", path, stdout=full) as process:
        _, stderr = process.communicate(timeout=PATIENCE_S)
    said = "stdout: cannot be written: No space left on device; free some space, or write elsewhere"
    assert (process.returncode, stderr) == (5, f"edgeattn: error: {said}\n")


def supervised(body: str) -> subprocess.CompletedProcess[str]:
    """``body`` as the work of a worker; its parent tells how it ended."""
    code = f"import os, signal, sys\nfrom edgeattn import cli, phase\ncli._work = lambda: {body}\ncli.main()"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_library_that_dies_after_the_work_changes_nothing() -> None:
    done = supervised("[print('data', flush=True), phase.done(1), os.kill(os.getpid(), signal.SIGSEGV)]")
    assert (done.returncode, done.stdout) == (1, "data\n")
    assert "died" not in done.stderr


def test_native_chatter_is_passed_on_unless_an_error_has_its_line() -> None:
    assert supervised("os.write(2, b'a warning of C++') and 0").stderr == "a warning of C++\n"
    assert supervised("os.write(2, b'an error of C++') and 4").stderr == ""


def test_an_abort_for_want_of_memory_is_out_of_resources() -> None:
    body = (
        "[phase.native('OpenVINO', 'compiling the graph').__enter__(), "
        "os.write(2, b\"terminate called after throwing an instance of 'std::bad_alloc'\"), os.abort()]"
    )
    done = supervised(body)
    assert done.returncode == 5
    said = "OpenVINO ran out of memory while compiling the graph (SIGABRT); nothing was written; "
    assert done.stderr == f"edgeattn: error: {said}EDGEATTN_MEMORY sets the limit\n"
