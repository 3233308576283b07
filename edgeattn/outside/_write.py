"""Writing graphs whose weights lie outside: from file to file, never through memory."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgeattn.outside._place import (
    FILE_LIMIT,
    chunks,
    forget,
    is_outside,
    point,
    size,
    size_of,
    tensors,
    varint,
    verify,
)

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Program

WIRING = "wiring.json"
_ALIGNMENT = 4096  # what mapping a part of a file asks for


def write_program(program: Program, path: Path, data_name: str = "") -> None:
    """Write a Program to ``path``: a file for one graph, a directory (which must exist) for several.

    Args:
        program: what to write. path: where.
        data_name: what the file of weights beside ``path`` is called, where a graph passes 2 GiB.

    Raises:
        IntegrityError: a file that holds weights changed after it was checked.
    """
    if program.wiring is None:
        (model,) = program.graphs.values()
        write(model, path, data_name)
        return
    for name, model in program.graphs.items():
        write(model, path / f"{name}.onnx")
    write_wiring(program, path)


def write_wiring(program: Program, folder: Path) -> None:
    """Write how the graphs of a wired program feed each other."""
    assert program.wiring is not None
    value = {"graphs": list(program.graphs), **asdict(program.wiring)}
    (folder / WIRING).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


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
                point(tensor, data.name, offset, length)
        path.write_bytes(copy.SerializeToString())
        written = [data, path]
    verify(model)  # what was copied is what was checked
    return written


def _append(file: BinaryIO, tensor: onnx.TensorProto) -> tuple[int, int]:
    """Copy a tensor's bytes to the end of a file, aligned as mapping needs it; offset and length."""
    offset = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
    file.seek(offset)
    for chunk in chunks(tensor):
        file.write(chunk)
    return offset, file.tell() - offset


def _stream(model: onnx.ModelProto, file: BinaryIO) -> None:
    """Serialise a model with its weights in place, never holding them: their fields are written by hand."""
    import onnx

    shell = onnx.ModelProto()
    shell.CopyFrom(model)
    outer = [shell.graph.initializer[i] for i in range(len(shell.graph.initializer))]
    heads = []
    for tensor in outer:
        length = size_of(tensor) if is_outside(tensor) else -1
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
