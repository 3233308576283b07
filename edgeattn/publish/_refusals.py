"""What must not be written over: an input, what is not ours, what is in use. Known before the work starts."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from edgeattn.errors import OutputExists, UsageError
from edgeattn.files import lstat_mode
from edgeattn.publish._faults import named

MARKER = ".edgeattn"


def guard(out: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that is one of the inputs, lies inside one, or contains one.

    Raises:
        UsageError: naming both paths.
    """
    target = _resolved(out)
    for given in inputs:
        source = _resolved(given)
        if target == source or _same_file(target, source):
            raise UsageError(f"is also the input '{given}'", where=str(out), hint="choose another --out")
        if source in target.parents:
            raise UsageError(f"lies inside the input '{given}'", where=str(out), hint="choose an --out outside it")
        if target in source.parents:
            raise UsageError(f"contains the input '{given}'", where=str(out), hint="choose another --out")


def ready(out: Path, force: bool, directory: bool) -> Path:
    """Every reason to refuse that can be known before the work: the path, made absolute."""
    where = str(out)
    if "\0" in where or not out.name or out.name in (".", ".."):
        raise UsageError("is not a usable output name", where=where or "--out", hint="name a new file or directory")
    try:
        out = out.absolute()
        mode = lstat_mode(out)
        parent = lstat_mode(out.parent.resolve())
    except OSError as e:
        raise named(e, where) from e
    if parent is None or not stat.S_ISDIR(parent):
        what = "its parent directory does not exist" if parent is None else "its parent is not a directory"
        raise UsageError(what, where=where, hint=f"mkdir -p '{out.parent}'")
    if mode is not None:
        may_replace(out, mode, force, directory)
    return out


def may_replace(out: Path, mode: int, force: bool, directory: bool) -> None:
    """Refuse what stands at ``out`` unless it may be replaced; ``mode`` is what ``lstat`` says of it."""
    if stat.S_ISLNK(mode):
        raise UsageError("is a symbolic link", where=str(out), hint="name the file or directory itself")
    if not force:
        raise OutputExists(out)
    if not directory:
        if not stat.S_ISREG(mode):
            raise UsageError("is not a regular file", where=str(out), hint="choose another --out")
        return
    if not stat.S_ISDIR(mode):
        raise UsageError("is a file, and a directory is to be written", where=str(out), hint="choose another --out")
    if os.listdir(out) and not _written_by_us(out):
        raise UsageError(
            "was not written by edgeattn, so --force does not replace it",
            where=str(out),
            hint="choose another --out, or remove it yourself",
        )
    if os.path.ismount(out) or _in_use(out):
        raise UsageError("is a directory in use", where=str(out), hint="choose another --out")


def _written_by_us(out: Path) -> bool:
    """Whether a directory holds our marker, a report or a manifest of ours; a file of that name alone is not enough."""
    if (out / ".git").exists():
        return False
    if (out / MARKER).is_file():
        return True
    signs = (("report.json", b'"schema_version"', b'"gates"'), ("manifest.json", b'"schema_version"', b'"edgeattn"'))
    for name, *words in signs:
        path = out / name
        if path.is_file() and not path.is_symlink():
            with contextlib.suppress(OSError):
                text = path.read_bytes()
                if all(word in text for word in words):
                    return True
    return False


def _in_use(out: Path) -> bool:
    """Whether ``out`` is the home directory, or the working directory or one above it."""
    with contextlib.suppress(OSError, RuntimeError):
        here, home, target = Path.cwd().resolve(), Path.home().resolve(), out.resolve()
        return target in (home, here) or target in here.parents
    return False


def _same_file(a: Path, b: Path) -> bool:
    with contextlib.suppress(OSError):
        return a.samefile(b)
    return False


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()
