"""What a file system refuses, as errors of ours that name the output and say what mends it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from edgeattn.errors import OutOfResources, UsageError

FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file size limit is reached",
    errno.EIO: "the disk reported an I/O error",
    errno.EMFILE: "too many files are open (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOMEM: "memory is used up",
}
_REFUSED = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
}


@contextlib.contextmanager
def blaming(out: Path) -> Iterator[None]:
    """Whatever the file system refuses in here, it refuses for ``out``."""
    try:
        yield
    except OSError as e:
        raise named(e, str(out)) from e


def named(error: OSError, where: str) -> UsageError | OutOfResources:
    """The error to raise for one of the file system's; ``where`` is the output as the user named it."""
    code = error.errno or 0
    if code in FULL:
        return OutOfResources(FULL[code], where=where, hint="nothing was replaced; free some and run again")
    if code in _REFUSED:
        return OutOfResources(_REFUSED[code], where=where, hint="choose an --out you may write to")
    if code == errno.ENAMETOOLONG:
        return UsageError("its name is too long for this file system", where=where, hint="choose a shorter --out")
    return OutOfResources(f"cannot be written: {error.strerror or error}", where=where, hint="nothing was replaced")


def name_fits(out: Path) -> None:
    """Raise the file system's own complaint about a name that is too long for it, before any work."""
    try:
        limit = os.pathconf(out.parent, "PC_NAME_MAX")
    except (OSError, ValueError):
        limit = 255
    if len(os.fsencode(out.name)) > limit:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(out))
