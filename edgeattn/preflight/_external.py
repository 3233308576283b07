"""External data: a tensor may name a regular file beside its model, and nothing else is ever opened."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn.errors import BadInput, IntegrityError, printable
from edgeattn.files import kind
from edgeattn.outside import LARGE_BYTES, forget, put, scratch, stamp_of
from edgeattn.preflight._tensors import all_tensors, byte_size

if TYPE_CHECKING:
    import onnx

_EXTERNAL = 1
_ALIGNED = 8  # the widest number
_BESIDE = "keep the data in a plain file beside the model"


def settle_external_data(model: onnx.ModelProto, path: Path, budget: int) -> None:
    """Settle where the external tensors of ``model`` (read from ``path``) have their bytes.

    Large initializers stay in their file, whose state is noted; everything else is read into the model. All
    locations are checked before the first is opened.

    Raises:
        IntegrityError: a location that leaves the model's directory: ``..``, absolute, through a link, a hard link.
        BadInput: a location that is no regular file, an offset or length that does not fit, or too much data.
    """
    mine = list(model.graph.initializer)  # the same objects as all_tensors gives, while this list holds them
    named = [(name, t) for name, t in all_tensors(model) if t.data_location == _EXTERNAL]
    plans = [(tensor, *_plan(name, tensor, path)) for name, tensor in named]
    stay = [length >= LARGE_BYTES and any(t is own for own in mine) for t, _, _, length in plans]
    total = sum(length for keep, (_, _, _, length) in zip(stay, plans, strict=True) if not keep)
    if total > budget:
        what = f"names {total} bytes of external data, more than the limit"
        raise BadInput(what, where=str(path), hint="is it the file you mean?")
    for keep, (tensor, parts, offset, length) in zip(stay, plans, strict=True):
        with _opened(path, parts) as fd:
            if keep:
                _stay(tensor, path, parts, offset, length, fd)
            else:
                data = _read(fd, offset, length, str(path))
                forget(tensor)
                tensor.raw_data = data


def _plan(name: str, tensor: onnx.TensorProto, path: Path) -> tuple[list[str], int, int]:
    """Path components, offset and length of one external tensor, checked against the file's size."""
    where = str(path)
    entries: dict[str, str] = {}
    for pair in tensor.external_data:
        if pair.key in entries:
            raise BadInput(f"{name} gives its {printable(pair.key, 40)} twice", where=where, hint="export it again")
        entries[pair.key] = pair.value
    parts = _components(entries.get("location", ""), name, where)
    size = _file_size(path, parts, name)
    needed = byte_size(tensor, name, where)
    offset = _whole(entries.get("offset", "0"), "offset", name, where)
    length = _whole(entries["length"], "length", name, where) if entries.get("length") else needed
    if tensor.data_type == 8 or length != needed:
        what = f"{name} needs {needed} bytes of external data and names {length}"
        raise BadInput(what, where=where, hint="export it again")
    if offset + length > size:
        file = printable("/".join(parts), 80)
        raise BadInput(
            f"{name} needs bytes {offset} to {offset + length} of '{file}', which has {size}",
            where=where,
            hint="get the model and its data files again, together",
        )
    return parts, offset, length


def _components(location: str, name: str, where: str) -> list[str]:
    shown = printable(location, 80)
    parts = re.split(r"[/\\]", location)
    if location.startswith(("/", "\\", "~")) or re.match(r"[A-Za-z]:", location) or ".." in parts:
        what = f"{name} wants to read '{shown}', outside the model's directory"
        raise IntegrityError(what, where=where, hint=_BESIDE)
    if parts and parts[0] == ".":
        parts = parts[1:]
    if not parts or "\\" in location or "\0" in location or any(part in ("", ".") for part in parts):
        raise BadInput(f"{name} names '{shown}', which is not a file", where=where, hint=_BESIDE)
    return parts


def _file_size(path: Path, parts: list[str], name: str) -> int:
    """Size of the file, looked at without opening it."""
    where, at = str(path), path.parent
    shown = printable("/".join(parts), 80)
    for i, part in enumerate(parts):
        at = at / part
        try:
            status = at.lstat()
        except (OSError, ValueError) as e:
            what = f"{name} names '{shown}', which cannot be found ({getattr(e, 'strerror', None) or e})"
            raise BadInput(what, where=where, hint="get the model and its data files again, together") from None
        if stat.S_ISLNK(status.st_mode):
            raise IntegrityError(f"{name} wants to read '{shown}' through a link", where=where, hint=_BESIDE)
        last = i == len(parts) - 1
        if last != stat.S_ISREG(status.st_mode) or (not last and not stat.S_ISDIR(status.st_mode)):
            what = f"{name} names '{shown}', where there is {kind(status.st_mode)}, not a file"
            raise BadInput(what, where=where, hint=_BESIDE)
    if os.path.samestat(status, path.stat()):
        raise BadInput(f"{name} names the model itself as its data", where=where, hint=_BESIDE)
    if status.st_nlink > 1:
        what = f"{name} wants to read '{shown}', a hard link that may belong elsewhere"
        raise IntegrityError(what, where=where, hint="copy the file")
    return status.st_size


def _whole(text: str, key: str, name: str, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text, re.ASCII):
        what = f"{name} has the {key} '{printable(text, 40)}', not a whole number of at least 0"
        raise BadInput(what, where=where, hint="export it again")
    return int(text)


@contextlib.contextmanager
def _opened(path: Path, parts: list[str]) -> Iterator[int]:
    """The file, opened component by component without following links: what was checked is what is read."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    where = str(path)
    with contextlib.ExitStack() as stack:
        try:
            fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            for part in parts[:-1]:
                fd = os.open(part, flags | os.O_DIRECTORY, dir_fd=fd)
                stack.callback(os.close, fd)
            fd = os.open(parts[-1], flags, dir_fd=fd)
            stack.callback(os.close, fd)
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise IntegrityError("its external data changed while it was read", where=where)
            yield fd
        except OSError as e:
            raise BadInput(f"its external data cannot be read: {e.strerror}", where=where) from e


def _read(fd: int, offset: int, length: int, where: str) -> bytes:
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(offset)
        data = file.read(length)
    if len(data) != length:
        raise IntegrityError("its external data changed while it was read", where=where)
    return data


def _stay(tensor: onnx.TensorProto, path: Path, parts: list[str], offset: int, length: int, fd: int) -> None:
    """Leave the bytes where they are, if numbers can be read there; else copy them to where they can."""
    if offset % _ALIGNED:
        file, size, stamp = scratch.copy(fd, offset, length)
        put(tensor, file, 0, size, stamp)
        return
    file = os.path.join(os.path.realpath(path.parent), *parts)
    put(tensor, file, offset, length, stamp_of(os.fstat(fd)))
