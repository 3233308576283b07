"""Operators and attribute values: only standard operators, and no value that makes an engine die."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgeattn import outside
from edgeattn.errors import BadInput, Unsupported, printable
from edgeattn.preflight._tensors import label

if TYPE_CHECKING:
    import onnx

_STANDARD = ("", "ai.onnx")
_MAX_RANK = 64
_TERM = rb"[A-Za-z]*(\.\.\.)?[A-Za-z]*"
_EQUATION = re.compile(rb"%s(,%s)*(->%s)?" % (_TERM, _TERM, _TERM))


def with_subgraphs(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The node and every node of the graphs inside it."""
    yield node
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for inner in attribute.g.node:
                yield from with_subgraphs(inner)
        for graph in attribute.graphs:
            for inner in graph.node:
                yield from with_subgraphs(inner)


def every_node(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of the graph, its subgraphs and its functions."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            yield from with_subgraphs(node)


def check_operators(model: onnx.ModelProto, nodes: list[onnx.NodeProto], where: str) -> None:
    """Every operator of ``nodes`` is a standard one of the model's opset.

    Raises:
        Unsupported: the operators are listed.
    """
    import onnx

    version = next(o.version for o in model.opset_import if o.domain in _STANDARD)
    used = {(node.domain, node.op_type) for node in nodes}
    local = {(function.domain, function.name) for function in model.functions}
    foreign = sorted(f"{d}::{op}" for d, op in used if d not in _STANDARD and (d, op) not in local)
    if foreign:
        raise Unsupported(
            f"uses operators outside the ONNX standard: {_listed(foreign)}",
            where=where,
            hint="export it without them (for ONNX Runtime: optimise at most to BASIC)",
        )
    unknown = sorted(op for d, op in used if d in _STANDARD and not _in_opset(op, version, onnx))
    if unknown:
        raise Unsupported(
            f"uses operators opset {version} does not have: {_listed(unknown)}",
            where=where,
            hint="export it again, with the opset they belong to",
        )
    called = sorted(f"{d}::{op}" for d, op in used & local)
    if called:
        raise Unsupported(
            f"calls functions of its own: {_listed(called)}",
            where=where,
            hint="inline them: onnx.inliner.inline_local_functions",
        )


def _in_opset(op: str, version: int, onnx: object) -> bool:
    schemas = onnx.defs  # type: ignore[attr-defined]
    try:
        return not schemas.get_schema(op, max_inclusive_version=version, domain="").deprecated
    except schemas.SchemaError:
        return False


def _listed(names: list[str]) -> str:
    return ", ".join(printable(name, 60) for name in names[:5]) + (f" and {len(names) - 5} more" if names[5:] else "")


def check_values(node: onnx.NodeProto, where: str) -> None:
    """Attribute values that no shape can make right.

    Raises:
        BadInput: an attribute given twice, NaN, an axis beyond any rank, no attention heads, an odd equation.
    """
    seen: set[str] = set()
    for attribute in node.attribute:
        name, value = attribute.name, None
        if name in seen:
            raise BadInput(f"{label(node)} gives '{printable(name, 40)}' twice", where=where, hint="export it again")
        seen.add(name)
        if attribute.type == 1 and math.isnan(attribute.f):
            value = "nan"
        elif name == "axis" and not -_MAX_RANK <= attribute.i < _MAX_RANK:
            value = str(attribute.i)
        elif name == "axes" and any(not -_MAX_RANK <= axis < _MAX_RANK for axis in attribute.ints):
            value = str(list(attribute.ints[:8]))
        elif name.endswith("num_heads") and attribute.i < 1:
            value = str(attribute.i)
        elif name == "equation" and not _EQUATION.fullmatch(attribute.s.replace(b" ", b"")):
            value = (
                f"'{printable(attribute.s[:80].decode(errors='replace'), 60)}'"  # ONNX's inference loops on "......"
            )
        if value is not None:
            raise BadInput(f"{label(node)} has {printable(name, 40)} {value}", where=where, hint="export it again")


def check_constants(graph: onnx.GraphProto, where: str) -> None:
    """Scales, zero points and indices that are constants of this graph.

    Raises:
        BadInput: a scale that is not positive, a zero point of another type than its data, an index out of range.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        inputs = [stored.get(name) for name in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(inputs) > 1:
            _scale(node, inputs, where)
        elif node.op_type == "Gather" and len(inputs) == 2 and inputs[0] is not None and inputs[1] is not None:
            _indices(node, inputs[0], inputs[1], where)


def _scale(node: onnx.NodeProto, inputs: list[onnx.TensorProto | None], where: str) -> None:
    data, scale, zero = (*inputs, None)[:3]
    if scale is not None and scale.data_type in (1, 10):
        values = outside.array(scale)
        if not (np.isfinite(values) & (values > 0)).all():
            what = f"{label(node)} has the scale '{printable(scale.name, 80)}', which is not positive everywhere"
            raise BadInput(what, where=where, hint="quantize the model again")
    mixed = node.op_type == "DequantizeLinear" and data is not None and zero is not None
    if mixed and data is not None and zero is not None and data.data_type != zero.data_type:
        what = f"{label(node)} has a zero point '{printable(zero.name, 80)}' of another type than its data"
        raise BadInput(what, where=where, hint="quantize the model again")


def _indices(node: onnx.NodeProto, data: onnx.TensorProto, indices: onnx.TensorProto, where: str) -> None:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    if not -len(data.dims) <= axis < len(data.dims) or indices.data_type not in (6, 7):
        what = f"{label(node)} gathers along axis {axis} of a tensor of rank {len(data.dims)}"
        raise BadInput(what, where=where, hint="export it again")
    size, values = data.dims[axis], outside.array(indices)
    if values.size and not (-size <= int(values.min()) and int(values.max()) < size):
        what = f"{label(node)} gathers index {int(values.max())} (or {int(values.min())}) of {size}"
        raise BadInput(what, where=where, hint="export it again")
