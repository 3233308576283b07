"""Protobuf on the wire, as far as it takes to tell a whole file from a broken one and to leave out heavy weights.

A large model is never held in memory: its message is rebuilt without the bytes of large initializers, which are
copied from file to file by the kernel.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from edgeattn import outside
from edgeattn.errors import BadInput

if TYPE_CHECKING:
    import onnx

Bytes: TypeAlias = "bytes | mmap.mmap"

_AGAIN = "download or export it again"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # of ModelProto, GraphProto, TensorProto


def field_at(data: Bytes, at: int, stop: int, where: str) -> tuple[int, int, int]:
    """The field that begins at ``at``: its number, where its content begins, and where it ends.

    Raises:
        BadInput: damaged, or truncated; says which.
    """
    key, body = _varint(data, at, stop, where)
    wire, end = key & 7, body
    if wire == _VARINT:
        _, end = _varint(data, body, stop, where)
    elif wire == _BYTES:
        length, body = _varint(data, body, stop, where)
        end = body + length
    elif wire in (_FIXED32, _FIXED64):
        end = body + (4 if wire == _FIXED32 else 8)
    else:
        what = "is not an ONNX model" if at == 0 else f"is damaged at byte {at}, or has trailing bytes"
        raise BadInput(what, where=where, hint=_AGAIN)
    if end > stop:
        missing = f"is truncated: {end - stop} bytes are missing at its end"
        raise BadInput(missing if at else "is not an ONNX model, or is truncated", where=where, hint=_AGAIN)
    return key >> 3, body, end


def _varint(data: Bytes, at: int, stop: int, where: str) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[at : min(at + 10, stop)]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, at + i + 1
    what = "is not an ONNX model" if at < 2 else f"is damaged at byte {at}, or truncated there"
    raise BadInput(what, where=where, hint=_AGAIN)


def without_weights(data: Bytes, where: str) -> tuple[bytes, list[tuple[int, int, int]]]:
    """The message without the raw data of large initializers, and where that lies.

    Returns:
        The smaller message, and (number of the initializer, offset, length) of each that was left out.

    Raises:
        BadInput: a graph whose fields do not add up.
    """
    pieces: list[bytes] = []
    left_out: list[tuple[int, int, int]] = []
    for number, begin, body, end in _fields(data, 0, len(data), where):
        if number != _GRAPH:
            pieces.append(data[begin:end])
            continue
        inner = list(_light_graph(data, body, end, left_out, where))
        pieces += [_tag(_GRAPH), _length(sum(map(len, inner))), *inner]
    return b"".join(pieces), left_out


def _light_graph(data: Bytes, at: int, stop: int, left_out: list[tuple[int, int, int]], where: str) -> Iterator[bytes]:
    count = 0
    for number, begin, body, end in _fields(data, at, stop, where):
        if number != _INITIALIZER:
            yield data[begin:end]
            continue
        raw = _raw_data(data, body, end, where) if end - body > outside.LARGE_BYTES else []
        if len(raw) == 1:  # two would be joined or replaced by protobuf: leave that to it
            _, start, inside, close = raw[0]
            left_out.append((count, inside, close - inside))
            rest = data[body:start] + data[close:end]
            yield _tag(_INITIALIZER) + _length(len(rest)) + rest
        else:
            yield data[begin:end]
        count += 1


def _raw_data(data: Bytes, at: int, stop: int, where: str) -> list[tuple[int, int, int, int]]:
    return [field for field in _fields(data, at, stop, where) if field[0] == _RAW_DATA]


def _fields(data: Bytes, at: int, stop: int, where: str) -> Iterator[tuple[int, int, int, int]]:
    while at < stop:
        number, body, end = field_at(data, at, stop, where)
        yield number, at, body, end
        at = end


def _tag(field: int) -> bytes:
    return bytes([field << 3 | _BYTES])


def _length(value: int) -> bytes:
    return outside.varint(value)


def move_outside(model: onnx.ModelProto, weights: list[tuple[int, int, int]], file: BinaryIO) -> None:
    """Copy what :func:`without_weights` left out of ``model`` to the scratch directory; tensors say where."""
    for number, offset, length in weights:
        path, size, stamp = outside.scratch.copy(file.fileno(), offset, length)
        outside.put(model.graph.initializer[number], path, 0, size, stamp)
