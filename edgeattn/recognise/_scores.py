"""What makes scores: a product of queries and keys, or a vector's product with a tanh of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeattn.recognise._graph import COPYING, DATA, LAYOUT, MOVING, SAME, Graph
from edgeattn.recognise._masking import Path
from edgeattn.recognise._sources import Projection, projection, root
from edgeattn.recognise._weights import equation

if TYPE_CHECKING:
    import onnx

_MOST_TERMS = 12


@dataclass(frozen=True)
class Dot:
    """Scores that are products of two values.

    Attributes:
        query, key: the two operands. width: what is summed over.
        bilinear: a constant matrix stands between them in one Einsum.
        unit: the query has one position, in a dimension of its own or none.
    """

    query: str
    key: str
    width: int | None
    nodes: tuple[onnx.NodeProto, ...]
    bilinear: bool = False


@dataclass(frozen=True)
class Energy:
    """Scores that are a vector's product with a tanh.

    Attributes:
        terms: what is added up inside the tanh. joined: values joined into one before the layer inside it.
    """

    terms: tuple[str, ...]
    joined: tuple[str, ...]
    nodes: tuple[onnx.NodeProto, ...]


@dataclass(frozen=True)
class Linear:
    """Scores that a layer makes of one value."""

    source: str
    nodes: tuple[onnx.NodeProto, ...]


def score(graph: Graph, path: Path, axis: int | None, memory: str) -> Dot | Energy | Linear | None:
    """What the scores at the end of a path are, for a softmax over that axis that weighs ``memory``."""
    node = path.score
    operands = None if node is None else _operands(graph, node)
    if node is None or operands is None:
        return None
    values, extra = operands
    data = [n for n in values if graph.level(n) == DATA]
    energies = [(n, found) for n in data if (found := _energy(graph, n))]
    if len(energies) == 1 and (len(data) == 1 or len(values) == 2):
        name, found = energies[0]
        if all(graph.level(n) < DATA for n in values if n != name):
            return Energy(found.terms, found.joined, (node, *extra, *found.nodes))
    if len(data) == 2 and len(values) in (2, 3):
        return _dot(graph, node, extra, data, path, axis, memory, len(values) == 3)
    if len(data) == 1 and len(values) == 2:
        fixed = next(n for n in values if n != data[0])
        if _is_array_of_queries(graph, node, fixed):
            return Dot(fixed, data[0], _width(graph, node, data[0]), (node, *extra))
        return Linear(root(graph, data[0]), (node, *extra))
    return None


def _operands(graph: Graph, node: onnx.NodeProto) -> tuple[list[str], tuple[onnx.NodeProto, ...]] | None:
    """What is multiplied and summed up, and the node beside the sum that does it."""
    if node.op_type in ("MatMul", "Gemm", "Conv"):
        return list(node.input[:2]), ()
    if node.op_type == "Einsum" and len(node.input) in (2, 3):
        return list(node.input), ()
    if node.op_type == "ReduceSum":
        product = graph.made_by(graph.root(node.input[0]), "Mul")
        return None if product is None else (list(product.input), (product,))
    return None


def _is_array_of_queries(graph: Graph, node: onnx.NodeProto, fixed: str) -> bool:
    """Whether a constant operand is queries, as learned latents are, and not a layer's weight."""
    rank = graph.rank(fixed)
    return node.op_type in ("MatMul", "Einsum") and rank is not None and rank > 2


def _dot(
    graph: Graph,
    node: onnx.NodeProto,
    extra: tuple[onnx.NodeProto, ...],
    data: list[str],
    path: Path,
    axis: int | None,
    memory: str,
    bilinear: bool,
) -> Dot:
    key = _key(graph, node, data, path, axis, memory)
    query = next((n for n in data if n != key), key)
    return Dot(query, key, _width(graph, node, query), (node, *extra), bilinear)


def _key(graph: Graph, node: onnx.NodeProto, data: list[str], path: Path, axis: int | None, memory: str) -> str:
    """Of two operands the one whose positions the softmax runs over."""
    a, b = data
    if node.op_type == "Einsum":
        letters = equation(graph, node).partition("->")
        made, given = letters[2], letters[0].split(",")
        moved = 1 if axis is None or any(n.op_type in MOVING for n in path.nodes[:-1]) else -axis
        named = [
            n for n, term in zip(node.input, given, strict=False) if 0 < moved <= len(made) and made[-moved] in term
        ]
        held = [n for n in named if n in data]
        if len(held) == 1:
            return str(held[0])
    ones = [_units(graph, node, n) for n in data]
    if ones[0] != ones[1]:
        return b if ones[0] else a
    ours = [n for n in data if root(graph, n) == root(graph, memory) or _source(graph, n) == root(graph, memory)]
    if len(ours) == 1:
        return ours[0]
    swaps = sum(_swaps(graph, n) for n in path.nodes[:-1]) + (axis == -2)
    return a if swaps % 2 else b


def _source(graph: Graph, name: str) -> str:
    behind = projection(graph, name)
    return "" if behind is None else behind.source


def _swaps(graph: Graph, node: onnx.NodeProto) -> bool:
    perm = list(graph.attributes(node).get("perm", [])) if node.op_type == "Transpose" else []
    return len(perm) > 1 and perm[-2:] == [len(perm) - 1, len(perm) - 2]


def _units(graph: Graph, node: onnx.NodeProto, name: str) -> bool:
    """Whether an operand has but one position."""
    shape = graph.dims(name)
    if shape is None or len(shape) < 2:
        return shape is not None
    if node.op_type == "ReduceSum":
        other = max((graph.rank(n) or 0 for n in graph.consumers and _both(graph, node)), default=0)
        return len(shape) < other or 1 in shape[:-1]
    return (shape[-2] if name == node.input[0] else shape[-1]) == 1


def _both(graph: Graph, node: onnx.NodeProto) -> list[str]:
    operands = _operands(graph, node)
    return operands[0] if operands else []


def _width(graph: Graph, node: onnx.NodeProto, name: str) -> int | None:
    """The size of the dimension that is summed over."""
    shape = graph.dims(name)
    if not shape:
        return None
    at = -1
    if node.op_type == "MatMul":
        at = -1 if name == node.input[0] or len(shape) == 1 else -2
    elif node.op_type == "Einsum":
        given, _, made = equation(graph, node).partition("->")
        term = dict(zip(node.input, given.split(","), strict=False)).get(name, "")
        gone = [i for i, letter in enumerate(term) if letter not in made]
        at = gone[0] if len(gone) == 1 and len(term) == len(shape) else -1
    size = shape[at]
    return size if isinstance(size, int) else None


def _energy(graph: Graph, name: str) -> Energy | None:
    """The tanh behind a value, and the terms of the sum inside it."""
    passed: list[onnx.NodeProto] = []
    for _ in range(8):
        node = graph.producer.get(name)
        if node is None:
            return None
        passed.append(node)
        if node.op_type == "Tanh":
            break
        if node.op_type not in LAYOUT or not node.input:
            return None
        name = node.input[0]
    else:
        return None
    terms, adds = _terms(graph, passed[-1].input[0])
    layers = [found for t in terms if (found := projection(graph, t))]
    joined = _joined(graph, terms, layers)
    return Energy(tuple(terms), joined, (*passed, *adds, *(f.layer for f in layers)))


def _terms(graph: Graph, name: str) -> tuple[list[str], list[onnx.NodeProto]]:
    """The data that is added up."""
    terms, adds, queue = [], [], [name]
    for each in queue:
        node = graph.made_by(graph.root(each, SAME | MOVING | COPYING), "Add", "Sum")
        if node is not None and len(queue) < _MOST_TERMS:
            adds.append(node)
            queue += graph.data_inputs(node)
        else:
            terms.append(each)
    return terms, adds


def _joined(graph: Graph, terms: list[str], layers: list[Projection]) -> tuple[str, ...]:
    """What a Concat puts side by side for the one layer inside the tanh."""
    if len(terms) != 1 or len(layers) != 1:
        return ()
    joint = graph.made_by(layers[0].source, "Concat")
    return tuple(root(graph, n) for n in joint.input) if joint is not None else ()
