"""From a path to a model: the bytes are looked at before they are parsed, and parsed before anything is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn.errors import BadInput, MissingPackage
from edgeattn.files import read_regular
from edgeattn.phase import native
from edgeattn.preflight._check import check_model
from edgeattn.preflight._external import inline_external_data
from edgeattn.preflight._text import check_text

if TYPE_CHECKING:
    import onnx

_AGAIN = "download or export it again"
# What files that are not ONNX begin with, and what to say about them.
_IMPOSTORS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the model", "run `git lfs pull`"),
    (b"<!doctype html", "is an HTML page, not a model", "download the file itself, not the page about it"),
    (b"<html", "is an HTML page, not a model", "download the file itself, not the page about it"),
    (b"<?xml", "is XML (an OpenVINO IR?), not ONNX", "name the .onnx file"),
    (b"pk\x03\x04", "is a zip archive (a PyTorch checkpoint?), not ONNX", "export the model: `edgeattn export`"),
    (b"\x80\x02", "is a Python pickle, not ONNX", "export the model: `edgeattn export`"),
    (b"\x80\x04", "is a Python pickle, not ONNX", "export the model: `edgeattn export`"),
    (b"\x1f\x8b", "is gzip-compressed", "run `gunzip` on it"),
    (b"\x89hdf", "is an HDF5 file (Keras?), not ONNX", "export the model to ONNX"),
    (b"ir_version:", "is ONNX in text form", "convert it: onnx.save(onnx.load(f, format='textproto'), out)"),
    (b"{", "is JSON or text, not ONNX", "name the .onnx file"),
)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_model(path: Path, max_bytes: int = 2 << 30, *, warn: Callable[[str], None] | None = None) -> onnx.ModelProto:
    """Read and check an ONNX file; external data is read into the model.

    Args:
        path: a regular file; a FIFO, socket or device is refused, never waited for.
        max_bytes: limit for the file and all its external data together.
        warn: receives what is odd but allowed, a line each (NaN or infinite weights).

    Raises:
        BadInput: not a readable, whole, well-formed ONNX file; names the likely cause, tensor or node.
        Unsupported: sound, but of a version, with operators or with input types edgeattn does not support.
        IntegrityError: its external data would be read from outside its own directory.
        OutOfResources: its functions expand to more nodes than any engine holds.
        MissingPackage: ``onnx`` is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    except ImportError:
        raise MissingPackage("onnx", "export") from None
    where = str(path)
    data = read_regular(path, max_bytes, BadInput)
    _look(data, where, onnx.ModelProto.DESCRIPTOR.fields_by_number)
    model = onnx.ModelProto()
    try:
        with native("protobuf", "reading the file"):
            model.ParseFromString(data)
    except DecodeError:
        raise BadInput("is damaged, or nested deeper than 100 messages", where=where, hint=_AGAIN) from None
    check_text(model, where)
    _free_dimensions(model)
    inline_external_data(model, path, max_bytes - len(data))
    for line in check_model(model, where):
        if warn is not None:
            warn(line)
    return model


def _free_dimensions(model: onnx.ModelProto) -> None:
    """A dimension of -1 is how other converters write a dynamic one; ONNX leaves it without a number."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value == -1:
                dim.ClearField("dim_value")


def _look(data: bytes, where: str, known: object) -> None:
    """Walk the outermost protobuf fields: cheap, and it tells a truncated file from one that never was ONNX."""
    if not data:
        raise BadInput("is empty (0 bytes): an interrupted download or export?", where=where, hint=_AGAIN)
    head = data[:64].lstrip().lower()
    for start, what, hint in _IMPOSTORS:
        if head.startswith(start):
            raise BadInput(what, where=where, hint=hint)
    at, graphs = 0, 0
    while at < len(data):
        number, end = _field(data, at, where)
        if number not in known:  # type: ignore[operator]  # a mapping of the protobuf library, untyped
            what = "is not an ONNX model" if at == 0 else f"has bytes after byte {at} that are not part of a model"
            raise BadInput(what, where=where, hint=_AGAIN)
        graphs += number == 7  # ModelProto.graph
        at = end
    if graphs > 1:
        raise BadInput("holds more than one graph: two files joined?", where=where, hint=_AGAIN)


def _field(data: bytes, at: int, where: str) -> tuple[int, int]:
    """Number of the field that begins at ``at``, and where it ends."""
    key, end = _varint(data, at, where)
    wire = key & 7
    if wire == _VARINT:
        _, end = _varint(data, end, where)
    elif wire == _BYTES:
        length, end = _varint(data, end, where)
        end += length
    elif wire in (_FIXED32, _FIXED64):
        end += 4 if wire == _FIXED32 else 8
    else:
        what = "is not an ONNX model" if at == 0 else f"is damaged at byte {at}, or has trailing bytes"
        raise BadInput(what, where=where, hint=_AGAIN)
    if end > len(data):
        missing = f"is truncated: {end - len(data)} bytes are missing at its end"
        raise BadInput(missing if at else "is not an ONNX model, or is truncated", where=where, hint=_AGAIN)
    return key >> 3, end


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, at + i + 1
    what = "is not an ONNX model" if at < 2 else f"is damaged at byte {at}, or truncated there"
    raise BadInput(what, where=where, hint=_AGAIN)
