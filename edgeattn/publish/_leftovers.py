"""Temporary directories, and what a process that was killed left of them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgeattn.files import lstat_mode, opened

PREFIX = ".tmp-"
_SCRATCH = "edgeattn-"


def sweep(directory: Path) -> None:
    """Remove temporary directories here whose process is gone and whose lock is free. Never raises."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            pid = entry.name.removeprefix(PREFIX).partition("-")[0]
            ours = entry.name.startswith(PREFIX) and pid.isdigit() and entry.is_dir(follow_symlinks=False)
            if not ours or entry.stat(follow_symlinks=False).st_uid != os.geteuid() or _alive(int(pid)):
                continue
            with contextlib.suppress(OSError), opened(Path(entry.path)) as fd:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a process of another container may hold it
                clear(Path(entry.path))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory in the system's place for temporary files, for what a library wants to find on disk."""
    with tempfile.TemporaryDirectory(prefix=f"{_SCRATCH}{os.getpid()}-") as folder:
        yield Path(folder)


def sweep_scratch(pid: int) -> None:
    """Remove what ``scratch`` made in a process that is gone. Never raises."""
    with contextlib.suppress(OSError):
        for left in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}{pid}-*"):
            shutil.rmtree(left, ignore_errors=True)


def clear(work: Path) -> None:
    """Put back an old output that stepped aside for one that never arrived, then remove the temporary directory."""
    if (work / "old").exists():
        try:
            target = work.parent / (work / "out").read_text("utf-8", errors="surrogateescape")
            if target.parent == work.parent and lstat_mode(target) is None:
                os.rename(work / "old", target)
        except (OSError, ValueError):
            return  # it holds the only copy
    shutil.rmtree(work, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
