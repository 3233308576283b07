"""Reading files that other people made: only regular files, never more than asked for, never blocking."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from edgeattn.errors import BadInput, EdgeattnError

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO (named pipe)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def kind(mode: int) -> str:
    """What a file's mode says it is, for an error message."""
    return next((name for test, name in _KINDS if test(mode)), "not a regular file")


def read_regular(
    path: Path, limit: int, error: type[EdgeattnError] = BadInput, *, follow_symlinks: bool = True
) -> bytes:
    """The bytes of a regular file of at most ``limit`` bytes.

    Never blocks: a FIFO, socket or device is recognised before it is opened, and the open is non-blocking
    in case the path is exchanged in between.

    Raises:
        error: missing, unreadable, too long, or not a regular file; the message says which.
    """
    where = str(path)
    try:
        mode = os.stat(path, follow_symlinks=follow_symlinks).st_mode
        if not stat.S_ISREG(mode):
            what = "a symbolic link" if stat.S_ISLNK(mode) else kind(mode)
            raise error(f"is {what}, not a file", where=where, hint="name a regular file")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_symlinks else os.O_NOFOLLOW)
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise error(f"is {kind(status.st_mode)}, not a file", where=where, hint="name a regular file")
            if status.st_size > limit:
                raise error(f"has {status.st_size} bytes, more than the limit of {limit}", where=where)
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise error("no such file", where=where, hint="check the path") from None
    except OSError as e:
        raise error(f"cannot be read: {e.strerror or e}", where=where, hint="check the path and its permissions") from e
    except ValueError as e:  # a NUL in the path
        raise error(f"is not a usable path: {e}", where=where, hint="check the path") from None
    if len(data) > limit:  # the file grew, or lies about its size as /proc does
        raise error(f"has more than the limit of {limit} bytes", where=where)
    return data
