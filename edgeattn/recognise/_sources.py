"""Where a value comes from: the layer that projected it, what that layer read, and which cell computed it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeattn.recognise._graph import COPYING, DATA, LAYOUT, MOVING, SAME, Graph

if TYPE_CHECKING:
    import onnx

_ROOTED = SAME | MOVING | COPYING
_PARTING = frozenset({"Split", "Slice", "Gather", "Concat"})
_PASSING = LAYOUT | _PARTING | {"Add", "Sub", "Mul", "Div", "Neg", "Where"}
_CELLS = frozenset({"Tanh", "LSTM", "GRU", "RNN"})
_MOST = 64


@dataclass(frozen=True)
class Projection:
    """A layer with a constant weight behind a value, and what it reads.

    Attributes:
        layer: the MatMul, Gemm, Conv or Einsum. source: the root of what it reads. width: what it makes.
        parted: the value is only a part of what the layer makes, or more than it.
    """

    layer: onnx.NodeProto
    source: str
    width: int | None
    parted: bool = False


def root(graph: Graph, name: str) -> str:
    """The value behind rearrangements and copies."""
    return graph.root(name, _ROOTED)


def projection(graph: Graph, name: str) -> Projection | None:
    """The layer behind a value, through rearrangements, biases, scales and parts of it; None if there is none."""
    parted = False
    for _ in range(_MOST):
        node = graph.producer.get(name)
        if node is None:
            return None
        layer = _layer(graph, node)
        if layer is not None:
            return Projection(node, root(graph, layer[0]), layer[1], parted)
        data = graph.data_inputs(node)
        parted = parted or node.op_type in _PARTING
        if node.op_type not in _PASSING or len(data) != 1:
            return None
        name = data[0]
    return None


def _layer(graph: Graph, node: onnx.NodeProto) -> tuple[str, int | None] | None:
    """What a layer reads, and the width of what it makes."""
    shape = graph.weight(node)
    pair = graph.operand(node) if node.op_type == "Einsum" else None
    if pair is not None:
        return pair[0], None
    if shape is None:
        return None
    data = next((n for n in node.input[:2] if graph.level(n) == DATA), "")
    width = shape[0] if node.op_type == "Conv" else shape[-1]
    return (data, width if isinstance(width, int) else None) if data else None


def origins(graph: Graph, names: Iterable[str]) -> set[str]:
    """What the layers behind values read, or the values themselves where no layer made them."""
    found: set[str] = set()
    seen: set[str] = set()
    queue = list(names)
    for name in queue:
        if name in seen or len(seen) > _MOST or graph.level(name) < DATA:
            continue
        seen.add(name)
        node = graph.producer.get(name)
        layer = _layer(graph, node) if node is not None else None
        if layer is not None:
            found.add(root(graph, layer[0]))
            behind = projection(graph, layer[0])
            queue += [layer[0]] if behind is not None else []
        elif node is not None and node.op_type in _PASSING:
            queue += graph.data_inputs(node)
        else:
            found.add(name)
    return found


def state(graph: Graph, query: str, result: str) -> str:
    """``current`` where a cell made the query, ``previous`` where what is attended to enters one beside the query."""
    behind = projection(graph, query)
    name = root(graph, query)
    if (behind is not None and behind.source in graph.inputs) or (behind is not None and name not in graph.inputs):
        name = behind.source
    if name in graph.inputs:
        return "previous" if _meets(graph, result, name) else ""
    return "current" if any(n.op_type in _CELLS for n in graph.back(name, 24)) else ""


def _meets(graph: Graph, result: str, state: str) -> bool:
    """Whether a value that comes from ``result`` is joined with the state: a cell's next one is."""
    seen, queue = {result}, [result]
    for name in queue:
        for node in graph.consumers.get(name, []):
            if not node.output or node.output[0] in seen or len(seen) > _MOST:
                continue
            if any(root(graph, n) == state for n in node.input if n != name):
                return True
            seen.update(node.output)
            queue += [n for n in node.output if n]
    return False
