"""Weights that stay in a file: a graph in memory holds where they lie, and whoever needs them maps them.

A tensor that is *outside* keeps ``data_location = EXTERNAL`` with an absolute path, offset and length, and a *stamp*:
device, inode, size and times of the file when it was checked. Copies of a graph cost nothing, whatever its weights
weigh; ONNX Runtime and numpy map the same pages. A file that changed since is refused, never read.

Who puts tensors outside: ``preflight`` (external data beside a model, and the weights of large files, which move to a
scratch file of this process) and the rewrite stage (large constants that rules made of such weights).
Who reads any tensor calls :func:`array`; who writes a graph calls :func:`write`.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from edgeattn.errors import BadInput, IntegrityError, OutOfResources, Unsupported, printable

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array

STAMP = "edgeattn.stamp"
LARGE_BYTES = 1 << 16  # smaller tensors are kept in the graph
FILE_LIMIT = (2 << 30) - (1 << 20)  # protobuf's 2 GiB, less what the message around the weights takes
_ALIGNMENT = 4096
_CHUNK = 16 << 20
_EXTERNAL = 1
_CHANGED = "changed after it was checked"
_HINT = "leave the model's files alone while a command runs, and run it again"

_mappings: weakref.WeakValueDictionary[tuple[str, str], mmap.mmap] = weakref.WeakValueDictionary()


def is_outside(tensor: onnx.TensorProto) -> bool:
    """Whether the tensor's bytes lie in a file."""
    return bool(tensor.data_location == _EXTERNAL)


def tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The initializers of a graph that are outside."""
    return [tensor for tensor in model.graph.initializer if is_outside(tensor)]


def stamp_of(status: os.stat_result) -> str:
    """What tells a file from a changed one."""
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def put(tensor: onnx.TensorProto, path: str, offset: int, length: int, stamp: str) -> None:
    """Let a tensor's bytes lie in a file that was looked at."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = _EXTERNAL  # type: ignore[assignment]
    for key, value in (("location", path), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    kept = [p for p in tensor.metadata_props if p.key != STAMP]
    del tensor.metadata_props[:]
    tensor.metadata_props.extend(kept)
    tensor.metadata_props.add(key=STAMP, value=stamp)


def array(tensor: onnx.TensorProto) -> Array:
    """A tensor's values, read-only; those of a tensor outside are mapped, not read.

    Raises:
        IntegrityError: the file changed after it was checked.
    """
    from onnx import helper, numpy_helper

    if not is_outside(tensor):
        return numpy_helper.to_array(tensor)
    path, offset, length, stamp = _place(tensor)
    return mapped(path, offset, length, stamp, helper.tensor_dtype_to_np_dtype(tensor.data_type), tensor.dims)


def mapped(path: str, offset: int, length: int, stamp: str, dtype: Any, shape: Iterable[int]) -> Array:
    """``length`` bytes of a file as a read-only array; see :func:`array`."""
    if length == 0:
        return np.zeros(tuple(shape), dtype)
    view = np.frombuffer(_mapping(path, stamp), np.uint8, length, offset).view(dtype).reshape(tuple(shape))
    view.flags.writeable = False
    result: Array = view
    return result


def _mapping(path: str, stamp: str) -> mmap.mmap:
    """The file mapped as a whole, once for all its tensors; a private mapping, so that engines may share it."""
    found = _mappings.get((path, stamp))
    if found is None or _stamp_at(path) != stamp:
        fd = -1
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            if stamp_of(os.fstat(fd)) != stamp:
                raise IntegrityError(_CHANGED, where=path, hint=_HINT)
            found = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise IntegrityError(f"cannot be read any more ({error.strerror})", where=path, hint=_HINT) from error
        finally:
            if fd >= 0:
                os.close(fd)
        _mappings[path, stamp] = found
    return found


def _stamp_at(path: str) -> str:
    try:
        return stamp_of(os.stat(path, follow_symlinks=False))
    except OSError:
        return ""


def verify(*models: onnx.ModelProto) -> None:
    """Every file that tensors lie in is the one that was checked.

    Raises:
        IntegrityError: it changed, or went.
    """
    for path, stamp in {(p, s) for model in models for p, _, _, s in map(_place, tensors(model))}:
        if _stamp_at(path) != stamp:
            raise IntegrityError(_CHANGED, where=path, hint=_HINT)


def release() -> None:
    """Give the pages of all mapped files back: they count as this process's memory until then."""
    for mapping in list(_mappings.values()):
        mapping.madvise(mmap.MADV_DONTNEED)


def _place(tensor: onnx.TensorProto) -> tuple[str, int, int, str]:
    entries = {pair.key: pair.value for pair in tensor.external_data}
    stamp = next((p.value for p in tensor.metadata_props if p.key == STAMP), "")
    if not stamp or not os.path.isabs(entries.get("location", "")):
        raise BadInput(
            "keeps its data in another file",
            where=f"tensor '{printable(tensor.name, 80)}'",
            hint="read the model with edgeattn.storage.load, which looks at that file first",
        )
    return entries["location"], int(entries.get("offset", 0)), int(entries["length"]), stamp


def size_of(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor that is outside."""
    return _place(tensor)[2]


def size(model: onnx.ModelProto) -> int:
    """Bytes of a model with all its weights."""
    return int(model.ByteSize()) + sum(map(size_of, tensors(model)))


def inside(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all its weights in memory; itself where they are.

    Raises:
        Unsupported: it would be larger than protobuf allows.
    """
    import onnx

    if not tensors(model):
        return model
    if size(model) > FILE_LIMIT:
        what = f"has {size(model)} bytes of weights, more than the {FILE_LIMIT} that fit into one message"
        raise Unsupported(what, hint="split the model, or store it in float16")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in tensors(result):
        data = array(tensor).tobytes()
        forget(tensor)
        tensor.raw_data = data
    return result


def forget(tensor: onnx.TensorProto) -> None:
    """Remove where a tensor lies."""
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    kept = [p for p in tensor.metadata_props if p.key != STAMP]
    del tensor.metadata_props[:]
    tensor.metadata_props.extend(kept)


def hollow(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its outside weights as inputs, for tools that take no external data; itself without any."""
    import onnx

    away = {tensor.name: tensor for tensor in tensors(model)}
    if not away:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    kept = [tensor for tensor in result.graph.initializer if tensor.name not in away]
    del result.graph.initializer[:]
    result.graph.initializer.extend(kept)
    present = {value.name for value in result.graph.input}
    for name, tensor in away.items():
        if name not in present:
            result.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    return result


def rooted(model: onnx.ModelProto) -> bytes:
    """The model for an engine that reads external data relative to ``/``.

    Raises:
        IntegrityError: a file changed after it was checked.
    """
    import onnx

    verify(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in tensors(copy):
        path, offset, length, _ = _place(tensor)
        forget(tensor)
        _point(tensor, path.lstrip("/"), offset, length)
    return bytes(copy.SerializeToString())


def digest(model: onnx.ModelProto) -> bytes:
    """sha256 over a model's content: where its weights lie plays no part."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in tensors(copy):
        forget(tensor)
    sha = hashlib.sha256(copy.SerializeToString(deterministic=True))
    for tensor in tensors(model):
        for chunk in chunks(tensor):
            sha.update(chunk)
    return sha.digest()


# --- writing ------------------------------------------------------------------------------------------------------


def write(model: onnx.ModelProto, path: Path, data_name: str = "") -> list[Path]:
    """Write a model: one file, or where that would pass 2 GiB, a file of weights beside it.

    Args:
        model: its weights in memory or outside; those outside are copied from file to file.
        path: the ``.onnx`` file.
        data_name: what the file of weights is called where one is needed; by default ``<path>.data``.

    Returns:
        The files written, the model last.

    Raises:
        IntegrityError: a file of weights changed after it was checked.
    """
    import onnx

    if not tensors(model):
        onnx.save(model, path)
        return [path]
    verify(model)
    written = [path]
    if size(model) <= FILE_LIMIT:
        with path.open("wb") as file:
            _stream(model, file)
    else:
        data = path.with_name(data_name or f"{path.name}.data")
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        with data.open("wb") as file:
            for tensor in tensors(copy):
                offset, length = _append(file, tensor)
                forget(tensor)
                _point(tensor, data.name, offset, length)
        path.write_bytes(copy.SerializeToString())
        written = [data, path]
    verify(model)  # what was copied is what was checked
    return written


def _point(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.data_location = _EXTERNAL  # type: ignore[assignment]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _append(file: BinaryIO, tensor: onnx.TensorProto) -> tuple[int, int]:
    """Copy a tensor's bytes to the end of a file, aligned as mapping needs it; offset and length."""
    offset = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
    file.seek(offset)
    for chunk in chunks(tensor):
        file.write(chunk)
    return offset, file.tell() - offset


def chunks(tensor: onnx.TensorProto) -> Iterator[bytes]:
    """The bytes of a tensor outside, piece by piece, read rather than mapped: mapped pages would count as memory."""
    path, offset, length, stamp = _place(tensor)
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if stamp_of(os.fstat(fd)) != stamp:
            raise IntegrityError(_CHANGED, where=path, hint=_HINT)
        while length:
            piece = os.pread(fd, min(length, _CHUNK), offset)
            if not piece:
                raise IntegrityError(_CHANGED, where=path, hint=_HINT)
            yield piece
            offset, length = offset + len(piece), length - len(piece)
    finally:
        os.close(fd)


def _stream(model: onnx.ModelProto, file: BinaryIO) -> None:
    """Serialise a model with its weights in place, never holding them: their fields are written by hand."""
    import onnx

    shell = onnx.ModelProto()
    shell.CopyFrom(model)
    outer = [shell.graph.initializer[i] for i in range(len(shell.graph.initializer))]
    heads = []
    for tensor in outer:
        length = _place(tensor)[2] if is_outside(tensor) else -1
        forget(tensor) if length >= 0 else None
        heads.append((tensor.SerializeToString(), length))
    del shell.graph.initializer[:]
    graph = shell.graph.SerializeToString()
    shell.ClearField("graph")
    fields = [
        (head, length, len(head) + (0 if length < 0 else 1 + len(varint(length)) + length)) for head, length in heads
    ]
    total = len(graph) + sum(1 + len(varint(whole)) + whole for _, _, whole in fields)
    file.write(shell.SerializeToString() + _tag(7) + varint(total) + graph)  # ModelProto.graph
    for (head, length, whole), tensor in zip(fields, model.graph.initializer, strict=True):
        file.write(_tag(5) + varint(whole) + head)  # GraphProto.initializer
        if length >= 0:
            file.write(_tag(9) + varint(length))  # TensorProto.raw_data
            for chunk in chunks(tensor):
                file.write(chunk)


def _tag(field: int) -> bytes:
    return bytes([field << 3 | 2])


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


# --- the scratch file ---------------------------------------------------------------------------------------------


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
                    raise IntegrityError("the model was cut short while it was read", hint=_HINT)
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
    return scratch.keep(flat[i : i + _CHUNK].data for i in range(0, len(flat), _CHUNK))
