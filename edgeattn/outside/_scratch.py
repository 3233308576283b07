"""A directory for weights on their way from a file that cannot be mapped, or from a rule that made them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from edgeattn.errors import IntegrityError, OutOfResources
from edgeattn.outside._place import CHUNK, HINT, stamp_of

if TYPE_CHECKING:
    from edgeattn.program import Array


class Scratch:
    """A directory of this process for weights on their way; it goes when the process ends."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._count = 0

    def keep(self, parts: Iterable[bytes | memoryview]) -> tuple[str, int, str]:
        """Write bytes to a file of their own; its path, length and stamp."""
        with self._file() as file:
            for part in parts:
                file.write(part)
            file.flush()
            status = os.fstat(file.fileno())
        return file.name, status.st_size, stamp_of(status)

    def copy(self, fd: int, offset: int, length: int) -> tuple[str, int, str]:
        """A part of an open file, copied by the kernel: no byte of it passes through this process."""
        with self._file() as file:
            while length:
                done = os.sendfile(file.fileno(), fd, offset, length)
                if not done:
                    raise IntegrityError("the model was cut short while it was read", hint=HINT)
                offset, length = offset + done, length - done
            status = os.fstat(file.fileno())
        return file.name, status.st_size, stamp_of(status)

    @contextlib.contextmanager
    def _file(self) -> Iterator[BinaryIO]:
        """A new file; what the file system refuses is a lack of room."""
        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="edgeattn-weights-")
            self._count += 1
            with open(os.path.join(os.path.realpath(self._folder.name), f"{self._count}.bin"), "xb") as file:
                yield file
        except OSError as error:
            what = f"weights cannot be laid aside ({error.strerror})"
            raise OutOfResources(what, where=tempfile.gettempdir(), hint="set TMPDIR to a disk with room") from error


scratch = Scratch()


def place_of(array_: Array) -> tuple[str, int, str]:
    """Move an array to the scratch directory; path, length and stamp."""
    flat = np.ascontiguousarray(array_).reshape(-1).view(np.uint8)
    return scratch.keep(flat[i : i + CHUNK].data for i in range(0, len(flat), CHUNK))
