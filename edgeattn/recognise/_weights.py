"""Weights that sum to one, however their softmax is spelled, and the values they weigh."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeattn.recognise._graph import COPYING, DATA, LAYOUT, SAME, Graph

if TYPE_CHECKING:
    import onnx

_SUMS = ("ReduceSum", "ReduceLogSumExp")
_MOST_STEPS = 48


@dataclass(frozen=True)
class Weights:
    """Normalised weights.

    Attributes:
        name: their value. scores: the value they are the softmax of.
        nodes: the nodes of the softmax.
        axis: the axis that sums to one, counted from the end; None where unknown.
    """

    name: str
    scores: str
    nodes: tuple[onnx.NodeProto, ...]
    axis: int | None = -1


@dataclass
class Weighing:
    """A sum of values by weights.

    Attributes:
        result: what the sum gives. values: the operand that is weighed.
        nodes: from the weights to the sum, without them.
        masks: Where and Mul nodes that change the weights on the way.
    """

    result: str
    values: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    masks: list[onnx.NodeProto] = field(default_factory=list)


def weights_of(graph: Graph, node: onnx.NodeProto) -> Weights | None:
    """The weights whose last node this is; None where it ends no softmax."""
    if node.op_type == "Softmax" and node.input:
        return Weights(node.output[0], node.input[0], (node,), _axis(graph, node))
    if node.op_type == "Div" and len(node.input) == 2:
        return _by_sum(graph, node)
    if node.op_type == "Exp" and node.input:
        return _by_logarithm(graph, node)
    return None


def _axis(graph: Graph, node: onnx.NodeProto) -> int | None:
    """The axis of a softmax or reduction, from the end."""
    given = graph.attributes(node)
    axis = given.get("axis", -1) if "Softmax" in node.op_type else next(iter(graph.axes(node) or [-1]))
    rank = graph.rank(node.input[0])
    return int(axis) if axis < 0 else None if rank is None else int(axis) - rank


def _by_sum(graph: Graph, divide: onnx.NodeProto) -> Weights | None:
    """``e / sum(e)`` with e an exponential, perhaps of scores less their maximum."""
    power, total = (graph.root(n, SAME | COPYING) for n in divide.input)
    exp, add = graph.made_by(power, "Exp"), graph.made_by(total, *_SUMS)
    if exp is None or add is None or graph.root(add.input[0], SAME) != power:
        return None
    return Weights(divide.output[0], exp.input[0], (divide, add, exp), _axis(graph, add))


def _by_logarithm(graph: Graph, exp: onnx.NodeProto) -> Weights | None:
    """``exp(log_softmax(e))`` or ``exp(e - logsumexp(e))``."""
    before = graph.made_by(graph.root(exp.input[0], SAME), "LogSoftmax", "Sub")
    if before is None:
        return None
    if before.op_type == "LogSoftmax":
        return Weights(exp.output[0], before.input[0], (exp, before), _axis(graph, before))
    scores = graph.root(before.input[0], SAME)
    inside = list(graph.back(before.input[1], 16))
    log = any(n.op_type in ("Log", "ReduceLogSumExp") for n in inside)
    added = [n for n in inside if n.op_type in _SUMS]
    if not log or not added or scores not in {graph.root(i, SAME) for n in inside for i in n.input}:
        return None
    return Weights(exp.output[0], before.input[0], (exp, before, *added), _axis(graph, added[0]))


def weighings(graph: Graph, weights: Weights) -> Iterator[Weighing]:
    """The sums that weights take part in, behind masks and rearrangements."""
    queue: list[tuple[str, list[onnx.NodeProto], list[onnx.NodeProto]]] = [(weights.name, [], [])]
    seen = {weights.name}
    for name, passed, masks in queue:
        for node in graph.consumers.get(name, []):
            if not node.output or len(seen) > _MOST_STEPS:
                continue
            yield from _summed(graph, node, name, passed, masks)
            if node.output[0] not in seen and _passes(graph, node, name):
                seen.add(node.output[0])
                changes = node.op_type in ("Where", "Mul", "Div") and len(graph.data_inputs(node)) > 1
                queue.append((node.output[0], [*passed, node], [*masks, node] if changes else masks))


def _passes(graph: Graph, node: onnx.NodeProto, name: str) -> bool:
    """Whether a node hands weights on: rearranged, masked, scaled, or in part."""
    if node.op_type in LAYOUT:
        return bool(node.input[0] == name)
    return node.op_type in ("Where", "Mul", "Div", "Add", "Slice", "Split", "Gather", "Concat")


def _summed(
    graph: Graph, node: onnx.NodeProto, name: str, passed: list[onnx.NodeProto], masks: list[onnx.NodeProto]
) -> Iterator[Weighing]:
    """The weighing that a node is."""
    others = [n for n in node.input if n != name and graph.level(n) == DATA]
    if (node.op_type == "MatMul" and len(others) == 1) or (
        node.op_type == "Einsum" and len(node.input) == 2 and len(others) == 1 and _contracts(graph, node)
    ):
        yield Weighing(node.output[0], others[0], [*passed, node], masks)
    elif node.op_type == "Mul" and len(others) == 1:
        add = _sum_behind(graph, node.output[0])
        if add is not None:
            yield Weighing(add.output[0], others[0], [*passed, node, add], masks)


def _contracts(graph: Graph, node: onnx.NodeProto) -> bool:
    given, _, made = equation(graph, node).partition("->")
    return bool(set(given) - {","} - set(made))


def equation(graph: Graph, node: onnx.NodeProto) -> str:
    """An Einsum's equation, without spaces."""
    found = graph.attributes(node).get("equation", b"")
    return found.decode(errors="replace").replace(" ", "") if isinstance(found, bytes) else str(found)


def _sum_behind(graph: Graph, name: str) -> onnx.NodeProto | None:
    """The sum that a product goes into, as ``(w * h).sum(1)``."""
    for _ in range(4):
        readers = graph.consumers.get(name, [])
        added = next((r for r in readers if r.op_type == "ReduceSum" and r.input[0] == name), None)
        if added is not None:
            return added
        moved = next((r for r in readers if r.op_type in LAYOUT and r.input[0] == name), None)
        if moved is None:
            return None
        name = moved.output[0]
    return None
