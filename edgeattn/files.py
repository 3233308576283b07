"""What the file system offers, with the care it needs.

Files that other people made are read only if they are regular, never more than asked for, never blocking; what we
write is flushed; names are exchanged in one step where the kernel can.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from edgeattn.errors import BadInput, EdgeattnError

_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO (named pipe)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


_SMALLER = "is it the file you mean? Weights of an ONNX may lie in files beside it"


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
    with open_regular(path, limit, error, follow_symlinks=follow_symlinks) as file:
        return read_all(file, limit, error, str(path))


def read_all(file: BinaryIO, limit: int, error: type[EdgeattnError], where: str) -> bytes:
    """The rest of an open file, of at most ``limit`` bytes; raises ``error`` where it cannot be read or is longer."""
    try:
        room = min(limit, max(os.fstat(file.fileno()).st_size, 1 << 16))  # a read makes room for all it may get
        data = file.read(room + 1)
        if room < len(data) <= limit:
            data += file.read(limit + 1 - len(data))
    except OSError as e:
        raise error(f"cannot be read: {e.strerror or e}", where=where, hint="check the path and its permissions") from e
    if len(data) > limit:  # the file grew, or lies about its size as /proc does
        raise error(f"has more than the limit of {limit} bytes", where=where, hint=_SMALLER)
    return data


@contextlib.contextmanager
def open_regular(
    path: Path, limit: int, error: type[EdgeattnError] = BadInput, *, follow_symlinks: bool = True
) -> Iterator[BinaryIO]:
    """A regular file of at most ``limit`` bytes, open for reading; see :func:`read_regular`."""
    where = str(path)
    try:
        mode = os.stat(path, follow_symlinks=follow_symlinks).st_mode
        if not stat.S_ISREG(mode):
            what = "a symbolic link" if stat.S_ISLNK(mode) else kind(mode)
            raise error(f"is {what}, not a file", where=where, hint="name a regular file")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow_symlinks else os.O_NOFOLLOW)
        file = os.fdopen(os.open(path, flags), "rb")
    except FileNotFoundError:
        raise error("no such file", where=where, hint="check the path") from None
    except OSError as e:
        raise error(f"cannot be read: {e.strerror or e}", where=where, hint="check the path and its permissions") from e
    except ValueError as e:  # a NUL in the path
        raise error(f"is not a usable path: {e}", where=where, hint="check the path") from None
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise error(f"is {kind(status.st_mode)}, not a file", where=where, hint="name a regular file")
        if status.st_size > limit:
            raise error(f"has {status.st_size} bytes, more than the limit of {limit}", where=where, hint=_SMALLER)
        yield file


def sync_tree(root: Path) -> None:
    """Flush every regular file and directory below ``root`` to disk, the deepest first."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            if stat.S_ISREG(Path(folder, name).lstat().st_mode):
                sync(Path(folder, name))
        sync(Path(folder))


def sync(path: Path) -> None:
    """Flush one file or directory to disk."""
    with opened(path) as fd:
        try:
            os.fsync(fd)
        except OSError as e:
            if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without fsync on directories
                raise


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor for reading, closed afterwards."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def lstat_mode(path: Path) -> int | None:
    """The mode of what stands at ``path`` itself, or None where nothing does."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
NOREPLACE, EXCHANGE = 1, 2  # linux/fs.h


def rename(source: Path, target: Path, flag: int) -> bool:
    """``renameat2``: True when done; False when the target exists (``NOREPLACE``) or the flag is not supported.

    Without support for ``NOREPLACE`` the check and the rename are two steps.
    """
    renameat2 = getattr(_libc, "renameat2", None)
    code = errno.ENOSYS
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
            return True
        code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    if code not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(target))
    if flag == EXCHANGE or lstat_mode(target) is not None:
        return False
    os.rename(source, target)
    return True
