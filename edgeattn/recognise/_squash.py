"""Functions into 0 … 1, however they are spelled: the ends of gates.

Every elementwise node with constant operands has a range; one whose range is 0 … 1, over an operand whose range is
wider, is where a mask ends. So a hard sigmoid may be an operator, a Clip before a Mul, or Min and Max, and a sigmoid
a scaled Tanh. Only ``1 / (1 + exp(-x))`` and its like are matched by form.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from edgeattn.recognise._graph import SAME, Graph

if TYPE_CHECKING:
    import onnx

Range: TypeAlias = tuple[float, float]
_ALL: Range = (-math.inf, math.inf)
_CLOSE = 1e-2  # people write 0.1667 for a sixth, and quantized constants are rounded
_HARD = frozenset({"HardSigmoid", "Clip", "Min", "Max", "Relu"})


def squashed(graph: Graph) -> dict[str, str]:
    """Values that a function into 0 … 1 makes, with its name: ``sigmoid`` or ``hard-sigmoid``."""
    ranges: dict[str, Range] = {}
    hard: set[str] = set()
    found = {}
    for node in graph.nodes:
        span = _range(graph, node, ranges)
        if span is None:
            continue
        name = node.output[0]
        ranges[name] = span
        if node.op_type in _HARD or any(n in hard for n in node.input):
            hard.add(name)
        if _unit(span) and node.op_type not in SAME and not any(_unit(ranges.get(n, _ALL)) for n in node.input):
            found[name] = "hard-sigmoid" if name in hard else "sigmoid"
    return found


def _unit(span: Range) -> bool:
    return abs(span[0]) < _CLOSE and abs(span[1] - 1) < _CLOSE


def _range(graph: Graph, node: onnx.NodeProto, ranges: dict[str, Range]) -> Range | None:
    """What a node's values lie between; None where nothing is known."""
    op, name = node.op_type, node.input[0] if node.input else ""
    before = ranges.get(name, _ALL)
    if op in ("Sigmoid", "HardSigmoid"):
        return (0.0, 1.0)
    if op == "Tanh":
        return (-1.0, 1.0)
    if op == "Relu":
        return (max(before[0], 0.0), max(before[1], 0.0))
    if op in SAME:
        return before if name in ranges else None
    if op == "Clip":
        low, high = _bounds(graph, node)
        return (max(before[0], low), min(before[1], high)) if high < math.inf or low > -math.inf else None
    if op in ("Min", "Max") and (pair := graph.operand(node)):
        return _bounded(op, ranges.get(pair[0], _ALL), graph.number(pair[1]))
    if op in ("Div", "Reciprocal") and _is_logistic(graph, node):
        return (0.0, 1.0)
    return _arithmetic(graph, node, ranges)


def _bounds(graph: Graph, clip: onnx.NodeProto) -> Range:
    given = graph.attributes(clip)
    low, high = given.get("min"), given.get("max")
    low = graph.number(clip.input[1]) if len(clip.input) > 1 and clip.input[1] else low
    high = graph.number(clip.input[2]) if len(clip.input) > 2 and clip.input[2] else high
    return (-math.inf if low is None else low, math.inf if high is None else high)


def _bounded(op: str, span: Range, by: float | None) -> Range | None:
    if by is None:
        return None
    return (min(span[0], by), min(span[1], by)) if op == "Min" else (max(span[0], by), max(span[1], by))


def _arithmetic(graph: Graph, node: onnx.NodeProto, ranges: dict[str, Range]) -> Range | None:
    """Scaled or moved by a constant; only from a known range."""
    pair = graph.operand(node) if node.op_type in ("Add", "Sub", "Mul", "Div") else None
    number = graph.number(pair[1]) if pair and pair[0] in ranges else None
    if pair is None or number is None:
        return None
    low, high = ranges[pair[0]]
    first = pair[0] == node.input[0]
    if node.op_type == "Add":
        return (low + number, high + number)
    if node.op_type == "Sub":
        return (low - number, high - number) if first else (number - high, number - low)
    if node.op_type == "Div" and (not first or number == 0):
        return None
    factor = number if node.op_type == "Mul" else 1 / number
    ends = (low * factor, high * factor)
    return (min(ends), max(ends)) if factor else None


def _is_logistic(graph: Graph, node: onnx.NodeProto) -> bool:
    """``1 / (1 + e)``, its Reciprocal, or ``e / (e + 1)``, with e an exponential."""
    divisor = graph.made_by(graph.root(node.input[-1]), "Add")
    pair = graph.operand(divisor) if divisor is not None else None
    if pair is None or not graph.is_one(pair[1]):
        return False
    power = graph.made_by(graph.root(pair[0]), "Exp")
    if power is None:
        return False
    if node.op_type == "Reciprocal" or graph.is_one(node.input[0]):
        return True
    other = graph.made_by(graph.root(node.input[0]), "Exp")
    return other is not None and graph.root(other.input[0]) == graph.root(power.input[0])
