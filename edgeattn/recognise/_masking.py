"""Masks and scales on the way from a product of queries and keys to the softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.recognise._graph import DATA, LAYOUT, Graph

if TYPE_CHECKING:
    import onnx

_LOW = -1e3  # a constant below this in a Where before a softmax hides; scores do not get there
_COMPARING = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual"})
_MOST_STEPS = 40


@dataclass
class Path:
    """What lies between a softmax and what its scores are made by.

    Attributes:
        score: the node that makes the scores: a product, a sum of products, or a layer.
        nodes: what was passed, the score's node last.
        masks: forms of masks, ``where -inf`` …; scaled: whether there was a factor.
        hiding: values that decide what is hidden, or that are added.
    """

    score: onnx.NodeProto | None = None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    hiding: list[str] = field(default_factory=list)
    scaled: bool = False


def peel(graph: Graph, name: str) -> Path:
    """From a softmax's input back to the node that scores; its ``score`` is None where that cannot be told."""
    path = Path()
    for _ in range(_MOST_STEPS):
        node = graph.producer.get(name)
        if node is None or not node.input:
            return path
        path.nodes.append(node)
        following = _before(graph, node, path)
        if following is None:
            path.score = node
            return path
        name = following
    return path


def _before(graph: Graph, node: onnx.NodeProto, path: Path) -> str | None:
    """The scores before a mask, a scale or a rearrangement; None at the node that makes them."""
    op, data = node.op_type, graph.data_inputs(node)
    if op in LAYOUT or op in ("Slice", "Clip", "Neg") or _drops_a_one(graph, node):
        return str(node.input[0])
    if op == "Where" and len(node.input) == 3:
        return _where(graph, node, path)
    if op == "Sub" and len(data) == 2:  # less their maximum, which no softmax minds
        top = graph.made_by(graph.root(node.input[1]), "ReduceMax")
        return node.input[0] if top is not None and graph.root(node.input[0]) == graph.root(top.input[0]) else None
    if op in ("Add", "Sub", "Mul", "Div") and len(node.input) == 2:
        if len(data) == 2:
            return _with_data(graph, node, path)
        return _with_constant(graph, node, data[0], path) if data else None
    if op in ("Max", "Min") and len(data) == 1:
        return data[0]
    return None


def _drops_a_one(graph: Graph, node: onnx.NodeProto) -> bool:
    """A Gather of the only element of a dimension, ``x[..., 0]``."""
    if node.op_type != "Gather" or graph.level(node.input[1]) == DATA:
        return False
    shape, axis = graph.dims(node.input[0]), graph.attributes(node).get("axis", 0)
    return shape is not None and -len(shape) <= axis < len(shape) and shape[axis] == 1


def _where(graph: Graph, node: onnx.NodeProto, path: Path) -> str | None:
    """``Where(condition, low, scores)`` either way round."""
    condition, yes, no = node.input
    for low, scores in ((yes, no), (no, yes)):
        number = graph.number(low)
        if graph.level(scores) == DATA and (number is None or number < _LOW or number == 0) and graph.level(low) < DATA:
            path.masks.append(f"where {named(number)}")
            path.hiding.append(condition)
            return str(scores)
    path.masks.append("where")
    path.hiding.append(condition)
    return yes if _scores(graph, yes) else no if _scores(graph, no) else None


def _with_constant(graph: Graph, node: onnx.NodeProto, scores: str, path: Path) -> str:
    """A scale, a bias, or a mask that no data enters: a causal one."""
    other = next(n for n in node.input if n != scores) if len(set(node.input)) > 1 else scores
    number = graph.number(other)
    if node.op_type in ("Mul", "Div"):
        if number is None and graph.rank(other) not in (0, None) and graph.dims(other) != (1,):
            path.masks.append("multiply")
            path.hiding.append(other)
        elif number != 1.0:
            path.scaled = True
        return scores
    if number is None:
        path.masks.append(f"add {_lowest(graph, other)}")
        path.hiding.append(other)
    return scores


def _with_data(graph: Graph, node: onnx.NodeProto, path: Path) -> str | None:
    """Of two operands the one that scores; the other masks it. None where both do, or neither."""
    a, b = node.input
    ranks = graph.rank(a), graph.rank(b)
    scoring = [n for n in (a, b) if _scores(graph, n)]
    if len(scoring) != 1:
        return None
    other = b if scoring[0] == a else a
    if None not in ranks and node.op_type != "Mul" and _is_number(graph, other):
        return None
    if node.op_type in ("Mul", "Div"):
        if graph.rank(other) == 0 or graph.dims(other) == (1,):
            path.scaled = True
        else:
            path.masks.append("multiply")
            path.hiding.append(other)
    else:
        path.masks.append(f"add {_lowest(graph, other)}")
        path.hiding.append(other)
    return str(scoring[0])


def _is_number(graph: Graph, name: str) -> bool:
    return graph.rank(name) == 0


def _scores(graph: Graph, name: str) -> bool:
    """Whether products of data lie close behind a value, as they do behind scores and not behind masks."""
    return any(
        n.op_type in ("MatMul", "Einsum", "Gemm", "Conv", "QLinearMatMul")
        or (n.op_type == "ReduceSum" and graph.made_by(graph.root(n.input[0]), "Mul") is not None)
        for n in graph.back(name, 12)
    )


def _lowest(graph: Graph, name: str) -> str:
    """What an added mask holds where it hides: the number in a Where or Mul behind it; ``float`` if it is fed."""
    array = graph.array(name)
    if array is not None and array.size and array.dtype.kind == "f":
        return named(float(array.min())) if array.min() < _LOW else "bias"
    for node in graph.back_all(name, 24):
        for number in (graph.number(n) for n in node.input):
            if number is not None and abs(number) > -_LOW and math.isfinite(number) | math.isinf(number):
                return named(-abs(number))
    return "bias" if graph.level(name) < DATA else "float"


def named(number: float | None) -> str:
    """A mask's number as people call it."""
    if number is None:
        return "computed"
    if number == -math.inf:
        return "-inf"
    if any(math.isclose(number, float(np.finfo(t).min), rel_tol=1e-6) for t in (np.float16, np.float32, np.float64)):
        return "finfo.min"
    exponent = round(math.log10(-number)) if number < 0 and math.isfinite(number) else 0
    return f"-1e{exponent}" if exponent > 2 and math.isclose(number, -(10.0**exponent), rel_tol=1e-6) else f"{number:g}"


def is_causal(graph: Graph, hiding: list[str]) -> bool:
    """Whether what is hidden is, or holds, the triangle of later positions, made of sizes and constants alone."""
    return any(_triangular(graph, node) for name in hiding for node in graph.back_all(name, 40)) or any(
        _is_triangle(graph, name) for name in hiding
    )


def _triangular(graph: Graph, node: onnx.NodeProto) -> bool:
    if node.op_type == "Trilu":
        return True
    if node.op_type in _COMPARING:
        places = [n for n in node.input if graph.level(n) < DATA and _counts(graph, n)]
        return len(places) == 2
    return any(_is_triangle(graph, name) for name in node.input)


def _counts(graph: Graph, name: str) -> bool:
    """Made by a Range, CumSum or counted constant."""
    array = graph.array(name)
    if array is not None:
        flat = array.reshape(-1)
        return bool(flat.size > 1 and np.issubdtype(flat.dtype, np.number) and (np.diff(flat) == 1).all())
    return any(n.op_type in ("Range", "CumSum", "NonZero") for n in graph.back_all(name, 8))


def _is_triangle(graph: Graph, name: str) -> bool:
    """A constant whose last two axes hold one value up to the diagonal and another beyond."""
    array = graph.array(name) if graph.is_constant(name) else None
    if array is None or array.ndim < 2 or min(array.shape[-2:]) < 2 or array.dtype.kind not in "fiub":
        return False
    matrix = array.reshape(-1, *array.shape[-2:])[0]
    below = np.tril(np.ones(matrix.shape, bool))
    inside, beyond = np.unique(matrix[below]), np.unique(matrix[~below])
    return len(inside) == len(beyond) == 1 and inside[0] != beyond[0]


def window(graph: Graph, hiding: list[str]) -> float | None:
    """The reach of a window around a computed position: the constant that a distance is compared with."""
    for node in (n for name in hiding for n in graph.back(name, 16)):
        if node.op_type in _COMPARING and len(node.input) == 2:
            pair = graph.operand(node)
            near = pair and any(n.op_type == "Abs" for n in graph.back(pair[0], 3))
            if pair and near:
                return graph.number(pair[1])
    return None
