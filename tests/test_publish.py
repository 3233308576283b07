"""Outputs appear whole or not at all, whatever interrupts the work. Real signals, real full disks."""

# ruff: noqa: PT012 - what happens inside the block under test is the point here
from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from edgeattn import publish
from edgeattn.errors import OutOfResources, OutputExists, UsageError

REPORT = '{"schema_version": 1, "gates": []}'
ROOT = Path(__file__).parents[1]


def ours(path: Path, text: str = "old") -> Path:
    path.mkdir()
    (path / "report.json").write_text(REPORT)
    (path / "data").write_text(text)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def script(tmp_path: Path, body: str, *before: str) -> subprocess.Popen[str]:
    """Runs ``body`` in a child that has ``out`` and ``publish`` at hand."""
    head = "import os, sys, time\nfrom pathlib import Path\nfrom edgeattn import publish\nout = Path(sys.argv[1])\n"
    return subprocess.Popen(
        [*before, sys.executable, "-c", head + textwrap.dedent(body), str(tmp_path / "out")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_directory_appears_whole_when_the_block_ends(tmp_path: Path) -> None:
    with publish.new_directory(tmp_path / "out") as work:
        (work / "sub").mkdir()
        (work / "sub" / "a").write_text("x")
        assert not (tmp_path / "out").exists()
        assert work.parent.parent == tmp_path
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "sub" / "a").read_text() == "x"
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("name", ["out.onnx", "old", "out", "new", "-rf", "mit leer", "größe", "x" * 255])
def test_a_file_appears_whole_when_the_block_ends(tmp_path: Path, name: str) -> None:
    with publish.new_file(tmp_path / name) as work:
        assert work.name == name
        work.write_text("x")
    assert names(tmp_path) == [name]
    with pytest.raises(RuntimeError), publish.new_file(tmp_path / name, force=True) as work:
        work.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "x"


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_failure_leaves_the_old_output_and_no_temporary(tmp_path: Path, failure: type[BaseException]) -> None:
    ours(tmp_path / "out")
    with pytest.raises(failure), publish.new_directory(tmp_path / "out", force=True) as work:
        (work / "data").write_text("new")
        raise failure
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "data").read_text() == "old"


def test_an_existing_output_is_refused_before_any_work_unless_forced(tmp_path: Path) -> None:
    ours(tmp_path / "out")
    with pytest.raises(OutputExists, match="--force"), publish.new_directory(tmp_path / "out"):
        pytest.fail("the work began")
    with publish.new_directory(tmp_path / "out", force=True) as work:
        (work / "data").write_text("new")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["data"]
    (tmp_path / "f").write_text("old")
    with pytest.raises(OutputExists), publish.new_file(tmp_path / "f"):
        pytest.fail("the work began")


@pytest.mark.parametrize("content", ["plain file", "foreign manifest", "git checkout"])
def test_force_never_replaces_a_directory_that_is_not_ours(tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if content == "plain file":
        (out / "thesis.tex").write_text("years of work")
    elif content == "foreign manifest":
        (out / "manifest.json").write_text('{"name": "my web app"}')
    else:
        (out / ".git").mkdir()
        (out / "report.json").write_text(REPORT)
    before = names(out)
    with pytest.raises(UsageError, match="not written by edgeattn"), publish.new_directory(out, force=True):
        pytest.fail("the work began")
    assert names(out) == before


def test_force_replaces_an_empty_or_a_marked_directory(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for text in ("a", "b"):
        with publish.new_directory(tmp_path / "out", force=True, mark=True) as work:
            (work / "data").write_text(text)
        assert (tmp_path / "out" / "data").read_text() == text


def test_force_refuses_the_working_and_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(UsageError, match="in use"), publish.new_directory(tmp_path / "out", force=True):
        pytest.fail("the work began")
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", str(tmp_path / "out"))
    with pytest.raises(UsageError, match="in use"), publish.new_directory(tmp_path / "out", force=True):
        pytest.fail("the work began")


@pytest.mark.parametrize("force", [False, True])
def test_a_symbolic_link_is_never_followed_or_replaced(tmp_path: Path, force: bool) -> None:
    ours(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("link", "dangling"):
        with pytest.raises(UsageError, match="symbolic link"), publish.new_directory(tmp_path / name, force=force):
            pytest.fail("the work began")
        with pytest.raises(UsageError, match="symbolic link"), publish.new_file(tmp_path / name, force=force):
            pytest.fail("the work began")
    assert names(tmp_path) == ["dangling", "link", "real"]


def test_unusable_paths_are_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bad = {
        tmp_path / "no" / "out": "its parent directory does not exist",
        tmp_path / "file" / "out": "its parent is not a directory",
        tmp_path / ("x" * 256): "its name is too long",
        Path("/"): "is not a usable output name",
        Path("."): "is not a usable output name",
        tmp_path / "a\0b": "is not a usable output name",
        tmp_path / "..": "is not a usable output name",
    }
    for path, what in bad.items():
        for new in (publish.new_directory, publish.new_file):
            with pytest.raises(UsageError) as e, new(path):
                pytest.fail("the work began")
            assert what in e.value.what
    assert names(tmp_path) == ["file"]


def test_the_other_one_wins_when_two_publish_the_same_name(tmp_path: Path) -> None:
    with pytest.raises(OutputExists), publish.new_directory(tmp_path / "out") as work:
        (work / "mine").write_text("")
        ours(tmp_path / "out", "theirs")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "data").read_text() == "theirs"
    with pytest.raises(OutputExists), publish.new_file(tmp_path / "f") as file:
        file.write_text("mine")
        (tmp_path / "f").write_text("theirs")
    assert (tmp_path / "f").read_text() == "theirs"


def test_force_does_not_replace_what_a_stranger_put_there_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not written by"), publish.new_directory(tmp_path / "out", True) as work:
        (work / "mine").write_text("")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("")
    assert names(tmp_path / "out") == ["thesis.tex"]


def test_guard_refuses_outputs_that_touch_an_input(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "m.onnx").write_text("x")
    os.link(tmp_path / "in" / "m.onnx", tmp_path / "same.onnx")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    source, model = tmp_path / "in", tmp_path / "in" / "m.onnx"
    for out, given, what in [
        (source, source, "is also the input"),
        (tmp_path / "link", source, "is also the input"),
        (tmp_path / "same.onnx", model, "is also the input"),
        (source / "out", source, "lies inside the input"),
        (tmp_path / "link" / "out", source, "lies inside the input"),
        (source, model, "contains the input"),
    ]:
        with pytest.raises(UsageError) as e:
            publish.guard(out, [given])
        assert what in e.value.what
    publish.guard(tmp_path / "other", [source, model])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("repeat", range(4))
def test_a_signal_at_any_time_leaves_old_or_new_and_no_temporary(
    tmp_path: Path, number: signal.Signals, code: int, repeat: int
) -> None:
    ours(tmp_path / "out")
    child = script(
        tmp_path,
        """
        print("ready", flush=True)
        try:
            while True:
                with publish.new_directory(out, force=True) as work:
                    (work / "report.json").write_text('{"schema_version": 1, "gates": []}')
                    (work / "data").write_text("new")
                    time.sleep(0.002)
        except KeyboardInterrupt:
            sys.exit(130)
        """,
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.05 + 0.0137 * repeat)
    child.send_signal(number)
    _, err = child.communicate(timeout=20)
    assert child.returncode in (code, -number), err  # -SIGTERM: it fell between two publications
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "data").read_text() in ("old", "new")


def test_sigkill_at_any_time_leaves_old_or_new_whole_and_the_next_run_sweeps(tmp_path: Path) -> None:
    ours(tmp_path / "out")
    for repeat in range(8):
        child = script(
            tmp_path,
            """
            print("ready", flush=True)
            while True:
                with publish.new_directory(out, force=True) as work:
                    (work / "report.json").write_text('{"schema_version": 1, "gates": []}')
                    for i in range(20):
                        (work / f"part{i}").write_text("x")
                    (work / "data").write_text("new")
            """,
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.011 * repeat)
        child.kill()
        child.communicate(timeout=20)
        assert (tmp_path / "out" / "data").read_text() in ("old", "new")
        assert len(names(tmp_path)) <= 2
    with publish.new_directory(tmp_path / "out", force=True) as work:
        (work / "data").write_text("last")
    assert names(tmp_path) == ["out"]


def test_an_old_output_that_stepped_aside_comes_back_after_a_kill(tmp_path: Path) -> None:
    # What a SIGKILL leaves between the two renames, on a file system that cannot exchange two names.
    dead = subprocess.Popen(["true"])
    dead.wait()
    work = tmp_path / f".tmp-{dead.pid}-00000000"
    work.mkdir()
    ours(work / "old")
    (work / "out").write_text("out")
    publish.sweep(tmp_path)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "data").read_text() == "old"


def test_without_exchange_the_old_one_steps_aside_and_the_new_one_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeattn.files._libc", None)  # a C library without renameat2
    ours(tmp_path / "out")
    with publish.new_directory(tmp_path / "out", force=True) as work:
        (work / "data").write_text("new")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "data").read_text() == "new"


def test_sweeping_leaves_the_living_and_the_foreign_alone(tmp_path: Path) -> None:
    for name in (f".tmp-{os.getpid()}-aa", ".tmp-x-aa", ".tmp-", "tmp-999999-aa"):
        (tmp_path / name).mkdir()
    (tmp_path / ".tmp-999999-file").write_text("a file, not a directory")
    (tmp_path / ".tmp-4194399-link").symlink_to(tmp_path)
    before = names(tmp_path)
    publish.sweep(tmp_path)
    assert names(tmp_path) == before


FULL = """
import errno
from edgeattn.errors import OutOfResources
try:
    with publish.new_directory(out, force=True) as work:
        for i in range(100):
            (work / f"part{i}").write_bytes(bytes(65536))
except OutOfResources as e:
    print(e.exit_code, e)
"""


def test_a_file_size_limit_ends_in_exit_5_with_the_old_output_intact(tmp_path: Path) -> None:
    ours(tmp_path / "out")
    child = script(tmp_path, "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n" + FULL)
    out, err = child.communicate(timeout=20)
    assert out.startswith(f"5 {tmp_path / 'out'}: the file size limit is reached"), err
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "data").read_text() == "old"


def _can_mount() -> bool:
    return (
        shutil.which("unshare") is not None
        and not subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
        ).returncode
    )


def in_namespace(tmp_path: Path, mount: str, body: str) -> str:
    if not _can_mount():
        pytest.skip("needs root or user namespaces to mount a small tmpfs")
    head = "import sys\nfrom pathlib import Path\nfrom edgeattn import publish\nout = Path(sys.argv[1])\n"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", mount + '\nexec "$0" -c "$1" "$2"', sys.executable, head + body,
         str(tmp_path / "disk" / "out")],
        cwd=ROOT, env={**os.environ, "DISK": str(tmp_path / "disk")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.stderr
    return done.stdout


def test_a_full_disk_ends_in_exit_5_with_the_old_output_intact(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    said = in_namespace(
        tmp_path,
        'mount -t tmpfs -o size=256k none "$DISK"; mkdir "$DISK/out"; touch "$DISK/out/.edgeattn"',
        FULL + "\nprint(sorted(p.name for p in out.parent.iterdir()), sorted(p.name for p in out.iterdir()))",
    )
    assert said.splitlines() == [
        f"5 {tmp_path}/disk/out: the disk is full; nothing was replaced; free some and run again",
        "['out'] ['.edgeattn']",
    ]


def test_no_inodes_left_ends_in_exit_5(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    said = in_namespace(
        tmp_path, 'mount -t tmpfs -o nr_inodes=10 none "$DISK"', FULL + "\nprint(list(out.parent.iterdir()))"
    )
    assert said.splitlines()[0].startswith(f"5 {tmp_path}/disk/out: the disk is full")
    assert said.splitlines()[1] == "[]"


def test_a_read_only_parent_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    said = in_namespace(
        tmp_path, 'mount -t tmpfs -o ro none "$DISK"', FULL.replace("for i", "print('began')\n        for i")
    )
    assert said.splitlines() == [
        f"5 {tmp_path}/disk/out: the file system is read-only; choose an --out you may write to"
    ]


def test_errors_of_the_work_itself_are_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), publish.new_directory(tmp_path / "out"):
        (tmp_path / "something else").read_text()
    with pytest.raises(OutOfResources, match="the disk is full"), publish.new_directory(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace to inject faults")
@pytest.mark.parametrize("call", ["fsync", "renameat2"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_failing_flush_or_rename_is_never_reported_as_success(tmp_path: Path, call: str, error: str) -> None:
    ours(tmp_path / "out")
    child = script(tmp_path, FULL, "strace", "-f", "-o", "/dev/null", "-e", f"inject={call}:error={error}:when=1")
    out, err = child.communicate(timeout=60)
    assert out.startswith(f"5 {tmp_path / 'out'}: "), err
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "data").read_text() == "old"


def test_eight_processes_on_one_output_leave_exactly_one_whole_result(tmp_path: Path) -> None:
    body = """
    from edgeattn.errors import EdgeattnError
    for _ in range(10):
        try:
            with publish.new_directory(out, force=True) as work:
                (work / "report.json").write_text('{"schema_version": 1, "gates": []}')
                for i in range(5):
                    (work / f"part{i}").write_text(str(os.getpid()))
        except EdgeattnError as e:
            assert e.exit_code in (2, 5), e
    """
    children = [script(tmp_path, body) for _ in range(8)]
    for child in children:
        _, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
    assert names(tmp_path) == ["out"]
    assert len({(tmp_path / "out" / f"part{i}").read_text() for i in range(5)}) == 1
