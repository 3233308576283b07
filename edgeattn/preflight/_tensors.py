"""Every tensor of a model, wherever it hides, and whether its bytes are what its type and shape need."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgeattn import outside
from edgeattn.errors import BadInput, printable

if TYPE_CHECKING:
    import onnx

_MAX_ELEMENTS = 1 << 40
# data type -> (bits an element, typed field, field entries an element)
_LAYOUT: dict[int, tuple[int, str, float]] = {
    1: (32, "float_data", 1),
    2: (8, "int32_data", 1),
    3: (8, "int32_data", 1),
    4: (16, "int32_data", 1),
    5: (16, "int32_data", 1),
    6: (32, "int32_data", 1),
    7: (64, "int64_data", 1),
    8: (0, "string_data", 1),
    9: (8, "int32_data", 1),
    10: (16, "int32_data", 1),
    11: (64, "double_data", 1),
    12: (32, "uint64_data", 1),
    13: (64, "uint64_data", 1),
    14: (64, "float_data", 2),
    15: (128, "double_data", 2),
    16: (16, "int32_data", 1),
    17: (8, "int32_data", 1),
    18: (8, "int32_data", 1),
    19: (8, "int32_data", 1),
    20: (8, "int32_data", 1),
    21: (4, "int32_data", 0.5),
    22: (4, "int32_data", 0.5),
    23: (4, "int32_data", 0.5),
    24: (8, "int32_data", 1),
    25: (2, "int32_data", 0.25),
    26: (2, "int32_data", 0.25),
}
_FLOATS = {1: "<f4", 10: "<f2", 11: "<f8"}
_FIELDS = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def all_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every TensorProto and what to call it: initializers, attributes, sparse tensors, subgraphs and functions."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)
        for attribute in function.attribute_proto:
            yield from _of_attribute(attribute, printable(function.name, 80))
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield f"initializer '{printable(tensor.name, 80)}'", tensor
    for sparse in graph.sparse_initializer:
        yield from _of_sparse(sparse, f"sparse initializer '{printable(sparse.values.name, 80)}'")
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[tuple[str, onnx.TensorProto]]:
    for node in nodes:
        for attribute in node.attribute:
            yield from _of_attribute(attribute, label(node))


def _of_attribute(attribute: onnx.AttributeProto, owner: str) -> Iterator[tuple[str, onnx.TensorProto]]:
    name = f"attribute '{printable(attribute.name, 40)}' of {owner}"
    if attribute.HasField("t"):
        yield name, attribute.t
    if attribute.HasField("sparse_tensor"):
        yield from _of_sparse(attribute.sparse_tensor, name)
    if attribute.HasField("g"):
        yield from _of_graph(attribute.g)
    for tensor in attribute.tensors:
        yield name, tensor
    for sparse in attribute.sparse_tensors:
        yield from _of_sparse(sparse, name)
    for graph in attribute.graphs:
        yield from _of_graph(graph)


def _of_sparse(sparse: onnx.SparseTensorProto, name: str) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield f"values of {name}", sparse.values
    yield f"indices of {name}", sparse.indices


def label(node: onnx.NodeProto) -> str:
    """``node 'conv1' (Conv)``, safe to print."""
    name = node.name or next(iter(node.output), "")
    return f"node '{printable(name, 80)}' ({printable(node.op_type, 40)})"


def byte_size(tensor: onnx.TensorProto, name: str, where: str) -> int:
    """Bytes the tensor's values take, from its type and shape.

    Raises:
        BadInput: an unknown type, a negative dimension, or more elements than any machine holds.
    """
    if tensor.data_type not in _LAYOUT:
        raise BadInput(f"{name} has the unknown data type {tensor.data_type}", where=where, hint="export it again")
    if any(dim < 0 for dim in tensor.dims):
        raise BadInput(f"{name} has the negative shape {list(tensor.dims)}", where=where, hint="export it again")
    count = int(math.prod(tensor.dims))
    if count > _MAX_ELEMENTS:
        raise BadInput(f"{name} claims {count} elements {list(tensor.dims)}", where=where, hint="export it again")
    bits: int = count * _LAYOUT[tensor.data_type][0]
    return (bits + 7) // 8


def check_tensor(tensor: onnx.TensorProto, name: str, where: str) -> str | None:
    """Check type, shape and amount of data; a warning when it holds NaN or infinities.

    Raises:
        BadInput: naming the tensor.
    """
    needed = byte_size(tensor, name, where)
    _, field, per_element = _LAYOUT[tensor.data_type]
    filled = [f for f in _FIELDS if (tensor.HasField(f) if f == "raw_data" else len(getattr(tensor, f)))]
    if filled and filled != ["raw_data"] and filled != [field]:
        raise BadInput(f"{name} keeps its data in {' and '.join(filled)}", where=where, hint="export it again")
    if filled == ["raw_data"] and tensor.data_type != 8:
        unit, expected, got = "bytes", needed, len(tensor.raw_data)
    else:
        unit, expected = "values", math.ceil(math.prod(tensor.dims) * per_element)
        got = len(getattr(tensor, field))
    if got != expected:
        shape = "x".join(map(str, tensor.dims)) or "scalar"
        raise BadInput(f"{name} ({shape}) needs {expected} {unit} and has {got}", where=where, hint="export it again")
    return _not_finite(tensor, name)


def check_outside(tensor: onnx.TensorProto, name: str, where: str) -> str | None:
    """As :func:`check_tensor`, of a tensor whose bytes lie in a file; they are looked at piece by piece.

    Raises:
        BadInput: naming the tensor.
    """
    needed = byte_size(tensor, name, where)
    got = outside.size_of(tensor)
    if got != needed or any(len(getattr(tensor, field)) for field in _FIELDS):
        shape = "x".join(map(str, tensor.dims)) or "scalar"
        raise BadInput(f"{name} ({shape}) needs {needed} bytes and has {got}", where=where, hint="export it again")
    if tensor.data_type not in _FLOATS:
        return None
    bad = sum(_count_not_finite(np.frombuffer(piece, _FLOATS[tensor.data_type])) for piece in outside.chunks(tensor))
    return f"{name} holds {bad} NaN or infinite values" if bad else None


def _count_not_finite(values: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> int:
    return values.size - int(np.count_nonzero(np.isfinite(values)))


def _not_finite(tensor: onnx.TensorProto, name: str) -> str | None:
    raw = tensor.raw_data
    if tensor.data_type == 16:  # bfloat16: all exponent bits set
        bits = np.frombuffer(raw, "<u2") if raw else np.asarray(tensor.int32_data, np.uint16)
        bad = int(np.count_nonzero((bits & 0x7F80) == 0x7F80))
    elif tensor.data_type in (1, 10, 11):
        if raw:
            values = np.frombuffer(raw, _FLOATS[tensor.data_type])
        elif tensor.data_type == 10:
            values = np.asarray(tensor.int32_data, np.uint16).view(np.float16)
        else:
            values = np.asarray(tensor.float_data if tensor.data_type == 1 else tensor.double_data)
        bad = _count_not_finite(values)
    else:
        return None
    return f"{name} holds {bad} NaN or infinite values" if bad else None
