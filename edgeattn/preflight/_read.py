"""From a path to a model: the bytes are looked at before they are parsed, and parsed before anything is opened."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn import outside
from edgeattn.errors import BadInput, MissingPackage
from edgeattn.files import open_regular, read_all
from edgeattn.phase import native
from edgeattn.preflight._check import check_model
from edgeattn.preflight._external import settle_external_data
from edgeattn.preflight._text import check_text
from edgeattn.preflight._wire import Bytes, field_at, move_outside, without_weights

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
HEAVY_BYTES = 64 << 20  # a file above this is not held in memory


def read_model(path: Path, max_bytes: int = 2 << 30, *, warn: Callable[[str], None] | None = None) -> onnx.ModelProto:
    """Read and check an ONNX file.

    Large weights stay outside (:mod:`edgeattn.outside`): external data where it lies, and the weights of a file of
    more than 64 MiB in a scratch file. Small ones are read into the model.

    Args:
        path: a regular file; a FIFO, socket or device is refused, never waited for.
        max_bytes: limit for the file and all external data that is read into the model.
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
    model = onnx.ModelProto()
    with open_regular(path, max_bytes, BadInput) as file:
        size = os.fstat(file.fileno()).st_size
        heavy = size > HEAVY_BYTES
        data: Bytes = b"" if heavy else read_all(file, max_bytes, BadInput, where)
        if heavy:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _look(data, where, onnx.ModelProto.DESCRIPTOR.fields_by_number)
        light, weights = without_weights(data, where) if heavy else (data, [])
        try:
            with native("protobuf", "reading the file"):
                model.ParseFromString(light)
        except DecodeError:
            raise BadInput("is damaged, or nested deeper than 100 messages", where=where, hint=_AGAIN) from None
        check_text(model, where)
        _free_dimensions(model)
        elsewhere = {number for number, tensor in enumerate(model.graph.initializer) if outside.is_outside(tensor)}
        settle_external_data(model, path, max_bytes - size)
        move_outside(model, [weight for weight in weights if weight[0] not in elsewhere], file)
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


def _look(data: Bytes, where: str, known: object) -> None:
    """Walk the outermost protobuf fields: cheap, and it tells a truncated file from one that never was ONNX."""
    if not data:
        raise BadInput("is empty (0 bytes): an interrupted download or export?", where=where, hint=_AGAIN)
    head = data[:64].lstrip().lower()
    for start, what, hint in _IMPOSTORS:
        if head.startswith(start):
            raise BadInput(what, where=where, hint=hint)
    at, graphs = 0, 0
    while at < len(data):
        number, _, end = field_at(data, at, len(data), where)
        if number not in known:  # type: ignore[operator]  # a mapping of the protobuf library, untyped
            what = "is not an ONNX model" if at == 0 else f"has bytes after byte {at} that are not part of a model"
            raise BadInput(what, where=where, hint=_AGAIN)
        graphs += number == 7  # ModelProto.graph
        at = end
    if graphs > 1:
        raise BadInput("holds more than one graph: two files joined?", where=where, hint=_AGAIN)
