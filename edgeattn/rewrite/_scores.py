"""From a Softmax back to the product of queries and keys: its masks, its scales, and where the queries come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.rewrite._view import const, dims, made_by, rank, used_once

if TYPE_CHECKING:
    import onnx_ir as ir

VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
ORDERING = ("Transpose", *VIEWS)
TAKING = ("Slice", "Split", "Gather", "Expand", "Tile", "Neg")
MOST_NODES = 64
MOST_LAYERS = 12


@dataclass(frozen=True)
class Scale:
    """A multiplication by one number."""

    node: ir.Node
    value: ir.Value  # what it multiplies
    factor: float
    dtype: np.dtype[Any]


@dataclass
class Scores:
    """What lies between a product of queries and keys and its Softmax, the Softmax's side first.

    Attributes:
        product: the MatMul. softmax: the Softmax.
        masks: Where and Add nodes. scales: multiplications by a number. nodes: all of them, and the views between.
        scaled_mask: a scale behind a mask, which multiplies the mask too.
    """

    product: ir.Node
    softmax: ir.Node
    masks: list[ir.Node] = field(default_factory=list)
    scales: list[Scale] = field(default_factory=list)
    nodes: list[ir.Node] = field(default_factory=list)
    scaled_mask: ir.Node | None = None


def scores_of(softmax: ir.Node) -> Scores | None:
    """The scores under a Softmax; None where it is no attention: no product of two computed values lies behind it."""
    found = _walk(softmax.inputs[0], MOST_LAYERS)
    if found is None:
        return None
    product, nodes = found
    scores = Scores(product, softmax, nodes=nodes)
    for node in nodes:
        scale = scale_by(node)
        if scale is not None:
            scores.scales.append(scale)
        elif node.op_type in ("Where", "Add"):
            scores.masks.append(node)
            if scores.scales:
                scores.scaled_mask = scores.scaled_mask or scores.scales[-1].node
    return scores


def _walk(value: ir.Value | None, left: int) -> tuple[ir.Node, list[ir.Node]] | None:
    node = made_by(value, "MatMul", "Where", "Add", "Mul", "Div", *VIEWS)
    if node is None or left == 0:
        return None
    if node.op_type == "MatMul":
        return (node, []) if all(const(v) is None for v in node.inputs) else None
    if node.op_type in ("Mul", "Div"):
        scale = scale_by(node)
        ways = [scale.value] if scale is not None else []
    elif node.op_type == "Where":
        ways = [v for v in node.inputs[1:] if v is not None and const(v) is None]
    else:
        ways = [v for v in (node.inputs if node.op_type == "Add" else node.inputs[:1]) if v is not None]
    for way in ways:
        found = _walk(way, left - 1)
        if found is not None:
            return found[0], [node, *found[1]]
    return None


def scale_by(node: ir.Node | None) -> Scale | None:
    """A Mul by, or Div by, one constant number that does not widen what it multiplies."""
    if node is None or node.domain != "" or node.op_type not in ("Mul", "Div"):
        return None
    left, right = node.inputs
    for value, number in ((left, right), (right, left)) if node.op_type == "Mul" else ((left, right),):
        array, size = const(number), rank(value)
        if value is None or array is None or array.size != 1 or array.dtype.kind != "f":
            continue
        factor = float(array.flat[0])
        if array.ndim > (size or 0) or not np.isfinite(factor) or not factor:
            continue
        return Scale(node, value, factor if node.op_type == "Mul" else 1 / factor, array.dtype)
    return None


def scales_above(value: ir.Value | None) -> list[Scale]:
    """The scales that a value went through on its way, with nothing but views and Transposes between."""
    found: list[Scale] = []
    while value is not None and used_once(value):
        node = value.producer()
        scale = scale_by(node)
        if scale is not None:
            found.append(scale)
            value = scale.value
        elif node is not None and node.domain == "" and node.op_type in ORDERING:
            value = node.inputs[0]
        else:
            break
    return found


@dataclass(frozen=True)
class Projection:
    """A constant linear map, ``x W + b``.

    Attributes:
        out: its result, or the part of it that a Split hands out. matmul: the MatMul or Gemm. add: the bias's Add.
        start, stop: the columns that ``out`` is.
    """

    out: ir.Value
    matmul: ir.Node
    add: ir.Node | None
    start: int
    stop: int


def projection(value: ir.Value | None) -> Projection | None:
    """The projection that computes ``value`` itself."""
    node = made_by(value, "MatMul", "Gemm", "Add", "Split", "Slice")
    if value is None or node is None:
        return None
    if node.op_type in ("Split", "Slice"):
        return _part(value, node)
    add = None
    if node.op_type == "Add":
        add, inner = node, next((m for v in node.inputs if (m := made_by(v, "MatMul")) is not None), None)
        if inner is None or not used_once(inner.outputs[0]) or not any(_is_bias(v, inner) for v in node.inputs):
            return None
        node = inner
    weight = const(node.inputs[1])
    constant = all(const(v) is not None for v in node.inputs[1:])
    if weight is None or weight.ndim != 2 or not constant or const(node.inputs[0]) is not None:
        return None
    flipped = node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].value
    return Projection(value, node, add, 0, weight.shape[0 if flipped else 1])


def _is_bias(value: ir.Value | None, matmul: ir.Node) -> bool:
    array, weight = const(value), const(matmul.inputs[1])
    return array is not None and weight is not None and array.ndim <= 1 and array.size in (1, weight.shape[-1])


def _part(value: ir.Value, split: ir.Node) -> Projection | None:
    """The columns of a projection that a Split or Slice along the last axis hands out."""
    if split.op_type == "Slice":
        return _sliced(value, split)
    whole, size = projection(split.inputs[0]), rank(split.inputs[0])
    axis = split.attributes["axis"].value if "axis" in split.attributes else 0
    widths = [(dims(o) or (None,))[-1] for o in split.outputs]
    if whole is None or size is None or axis not in (-1, size - 1) or not all(isinstance(w, int) for w in widths):
        return None
    before = [w for w, o in zip(widths, split.outputs, strict=True) if isinstance(w, int)]
    place = list(split.outputs).index(value)
    start = sum(before[:place])
    return Projection(value, whole.matmul, whole.add, start, start + before[place])


def _sliced(value: ir.Value, node: ir.Node) -> Projection | None:
    whole, span, size = projection(node.inputs[0]), slice_of(node), rank(node.inputs[0])
    if whole is None or span is None or size is None or span[0] not in (-1, size - 1):
        return None
    first, last = (min(max(end + (whole.stop if end < 0 else 0), 0), whole.stop) for end in span[1:])
    return Projection(value, whole.matmul, whole.add, first, last) if first < last else None


def slice_of(node: ir.Node) -> tuple[int, int, int] | None:
    """The one axis that a Slice cuts in steps of 1, and from where to where; None where it does more."""
    given = [const(v) for v in node.inputs[1:]]
    if len(given) < 3 or any(g is None or g.size != 1 for g in given):
        return None
    start, end, axis, *step = (int(g.reshape(-1)[0]) for g in given if g is not None)
    return (axis, start, end) if step in ([], [1]) else None


def source_of(queries: ir.Value | None) -> Projection | None:
    """The one projection behind queries, seen through everything that is linear; None for none or several."""
    found: dict[ir.Value, Projection] = {}
    todo: list[ir.Value | None] = [queries]
    seen: set[ir.Value] = set()
    while todo:
        value = todo.pop()
        if value is None or value in seen or len(seen) > MOST_NODES:
            continue
        seen.add(value)
        here = projection(value)
        if here is not None:
            found[value] = here
            continue
        node = made_by(value, "Add", "Sub", "Mul", "Div", "Concat", "Where", *ORDERING, *TAKING)
        if node is not None:
            todo += node.inputs if node.op_type in ("Add", "Sub", "Mul", "Concat", "Where") else node.inputs[:1]
    return next(iter(found.values())) if len(found) == 1 else None


def only_scales(source: ir.Value, product: ir.Node) -> ir.Node | None:
    """None if multiplying ``source`` by a number multiplies the left operand of ``product`` by it and nothing else.

    Every operator that ``source`` reaches before the product must be homogeneous of degree 1 in it: rotary positions
    are, whose sines and cosines do not depend on it. Otherwise the node that is not, or reads it elsewhere.
    """
    reached: dict[ir.Node, None] = {}
    values = {source}
    todo = [source]
    while todo:
        value = todo.pop()
        for reader in value.consumers():
            if reader in reached or (reader.domain == "" and reader.op_type in ("Shape", "Size")):
                continue
            if reader is product:
                if product.inputs[1] is value:
                    return product
                continue
            reached[reader] = None
            if len(reached) > MOST_NODES:
                return reader
            values |= set(reader.outputs)
            todo += reader.outputs
    leaving = next((v.producer() for v in values if v.is_graph_output()), None)
    if leaving is not None or any(product.inputs[1] is v for v in values):
        return leaving or product
    return next((node for node in reached if not _is_linear(node, values)), None)


def _is_linear(node: ir.Node, moving: set[ir.Value]) -> bool:
    """Whether a node is homogeneous of degree 1 in the operands that are in ``moving``."""
    inside = [v in moving for v in node.inputs]
    if node.domain != "":
        return False
    if node.op_type in (*ORDERING, *TAKING):
        return inside[0] and not any(inside[1:])
    if node.op_type in ("Add", "Sub", "Concat"):
        return all(inside)
    if node.op_type == "Mul":
        return inside.count(True) == 1
    return node.op_type == "Div" and inside == [True, False]
