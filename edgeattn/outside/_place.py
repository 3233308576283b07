"""Where the bytes of a tensor outside lie, and the tensor's values mapped from there."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.errors import BadInput, IntegrityError, printable

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array

STAMP = "edgeattn.stamp"
LARGE_BYTES = 1 << 16  # smaller tensors are kept in the graph
FILE_LIMIT = (2 << 30) - (1 << 20)  # protobuf's 2 GiB, less what the message around the weights takes
CHUNK = 16 << 20
_EXTERNAL = 1
_CHANGED = "changed after it was checked"
HINT = "leave the model's files alone while a command runs, and run it again"

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
        with _opened(path, stamp) as fd:
            found = mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
        _mappings[path, stamp] = found
    return found


@contextlib.contextmanager
def _opened(path: str, stamp: str) -> Iterator[int]:
    """The file that was checked, open for reading."""
    fd = -1
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        if stamp_of(os.fstat(fd)) != stamp:
            raise IntegrityError(_CHANGED, where=path, hint=HINT)
        yield fd
    except OSError as error:
        raise IntegrityError(f"cannot be read any more ({error.strerror})", where=path, hint=HINT) from error
    finally:
        if fd >= 0:
            os.close(fd)


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
            raise IntegrityError(_CHANGED, where=path, hint=HINT)


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
        point(tensor, path.lstrip("/"), offset, length)
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


def chunks(tensor: onnx.TensorProto) -> Iterator[bytes]:
    """The bytes of a tensor outside, piece by piece, read rather than mapped: mapped pages would count as memory."""
    path, offset, length, stamp = _place(tensor)
    with _opened(path, stamp) as fd:
        while length:
            piece = os.pread(fd, min(length, CHUNK), offset)
            if not piece:
                raise IntegrityError(_CHANGED, where=path, hint=HINT)
            yield piece
            offset, length = offset + len(piece), length - len(piece)


def point(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Let a tensor name a place in a file, without a stamp."""
    tensor.data_location = _EXTERNAL  # type: ignore[assignment]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
