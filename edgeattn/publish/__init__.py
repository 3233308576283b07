"""Outputs appear whole or not at all.

What a command writes is built in a sibling ``.tmp-<pid>-<random>`` directory, flushed to disk, and renamed into
place. Until that rename the old output is untouched; a failure, Ctrl-C or SIGTERM removes the temporary directory,
and one that a killed process left behind is swept the next time something is written beside it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from edgeattn import phase
from edgeattn.errors import OutputExists
from edgeattn.files import EXCHANGE, NOREPLACE, lstat_mode, rename, sync, sync_tree
from edgeattn.publish._faults import FULL, blaming, name_fits, named
from edgeattn.publish._leftovers import PREFIX, clear, scratch, sweep, sweep_scratch
from edgeattn.publish._refusals import MARKER, guard, may_replace, ready

__all__ = ["MARKER", "free_name", "guard", "new_directory", "new_file", "scratch", "sweep", "sweep_scratch"]


@contextlib.contextmanager
def new_directory(out: Path, force: bool = False, *, mark: bool = False) -> Iterator[Path]:
    """A temporary directory to fill; it becomes ``out`` when the block ends without an exception.

    Args:
        out: the directory to publish. Its parent must exist.
        force: replace a directory that is empty or that edgeattn wrote.
        mark: leave a ``.edgeattn`` file inside, so that a later ``force`` knows the directory as ours. A run
            directory (``report.json``) and a bundle (``manifest.json``) are known without it.

    Raises:
        OutputExists: ``out`` exists and ``force`` is False; before any work.
        UsageError: ``out`` cannot be written there, or is not ours to replace; before any work.
        OutOfResources: disk full, read-only or failing.
    """
    out = ready(out, force, directory=True)
    with _building(out) as work:
        built = work / "new"
        with blaming(out):
            built.mkdir()
            if mark:
                (built / MARKER).touch()
        yield built
        with blaming(out):
            sync_tree(built)
            _put_in_place(built, out, work, force)


@contextlib.contextmanager
def new_file(out: Path, force: bool = False) -> Iterator[Path]:
    """The path of a temporary file to write; it becomes ``out`` when the block ends without an exception.

    What else is written beside that path (a file of weights) is put in place under its own name before it, and must
    not exist there: until the last rename the old ``out`` is untouched and whole.

    Raises:
        OutputExists, UsageError, OutOfResources: as ``new_directory``.
    """
    out = ready(out, force, directory=False)
    with _building(out) as work:
        built = work / "new" / out.name
        with blaming(out):
            built.parent.mkdir()
        yield built
        with blaming(out):
            companions = [path for path in built.parent.iterdir() if path != built]
            for path in (*companions, built):
                sync(path)
            with _withdrawn_on_failure() as placed:
                for path in companions:
                    if not rename(path, out.parent / path.name, NOREPLACE):
                        raise OutputExists(out.parent / path.name)
                    placed.append(out.parent / path.name)
                _put_in_place(built, out, work, force)


@contextlib.contextmanager
def _withdrawn_on_failure() -> Iterator[list[Path]]:
    """Files that were put in place are removed again when what they belong to does not follow."""
    placed: list[Path] = []
    try:
        yield placed
    except BaseException:
        for path in placed:
            path.unlink(missing_ok=True)
        raise


def free_name(path: Path) -> str:
    """The name of ``path``, or where something stands there already, with a random word in it."""
    return path.name if lstat_mode(path) is None else f"{path.stem}.{secrets.token_hex(4)}{path.suffix}"


@contextlib.contextmanager
def _building(out: Path) -> Iterator[Path]:
    """A sibling temporary directory, locked while it is in use and gone afterwards whatever happens."""
    sweep(out.parent)
    phase.building_in(out.parent)
    work = out.parent / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    lock = -1
    with _sigterm_raises():
        try:
            with blaming(out):
                name_fits(out)
                work.mkdir(mode=0o700)
                lock = os.open(work, os.O_RDONLY | os.O_CLOEXEC)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield work
        except OSError as e:
            if e.errno not in FULL:
                raise
            raise named(e, str(out)) from e
        finally:
            try:
                clear(work)
            except BaseException:  # Ctrl-C in the middle of clearing: finish it, then obey
                clear(work)
                raise
            if lock >= 0:
                os.close(lock)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM ends the block like Ctrl-C does, so that ``finally`` runs; only the main thread can arrange that."""
    default = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    )
    if not default:
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _put_in_place(built: Path, out: Path, work: Path, force: bool) -> None:
    """Rename ``built`` to ``out``. With ``force`` the old one and the new one change places in one step.

    Where the file system cannot exchange two names, the old one steps aside first; ``clear`` (or, after a SIGKILL
    in between, the next ``sweep``) puts it back if the new one did not arrive.
    """
    if not rename(built, out, NOREPLACE):
        directory = built.is_dir()
        may_replace(out, out.lstat().st_mode, force, directory)  # it may have changed while the work went on
        if not directory:
            os.replace(built, out)
        elif not rename(built, out, EXCHANGE):
            (work / "out").write_text(out.name, "utf-8", errors="surrogateescape")
            os.rename(out, work / "old")
            os.rename(built, out)
    phase.published(out)
    sync(out.parent)
