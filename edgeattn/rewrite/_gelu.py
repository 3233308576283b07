"""Finding GELU in a graph, in whatever order its factors and operands are written: read as a polynomial."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeattn.rewrite._rule import Miss, miss
from edgeattn.rewrite._sample import f32, graph
from edgeattn.rewrite._view import const, made_by, rank

if TYPE_CHECKING:
    import onnx

MOST_POWER = 3
CLIMB = 4  # nodes between the erf and the end
Polynomial = dict[tuple[int, int], float]  # (power of x, power of the erf or tanh) -> coefficient

ERF: Polynomial = {(1, 0): 1 / math.sqrt(2)}
TANH: Polynomial = {(1, 0): math.sqrt(2 / math.pi), (3, 0): 0.044715 * math.sqrt(2 / math.pi)}
WHOLE: Polynomial = {(1, 0): 0.5, (1, 1): 0.5}


@dataclass
class Reader:
    """Reads values as polynomials in ``x`` and in the output ``bend`` of an Erf or Tanh."""

    x: ir.Value
    bend: ir.Value
    nodes: dict[ir.Node, None]

    def read(self, value: ir.Value | None) -> Polynomial | None:
        """None where a value is no polynomial of a low degree."""
        if value is self.x:
            return {(1, 0): 1.0}
        if value is self.bend:
            return {(0, 1): 1.0}
        array = const(value)
        if array is not None:
            fits = array.size == 1 and array.dtype.kind == "f" and array.ndim <= (rank(self.x) or 0)
            return {(0, 0): float(array.flat[0])} if fits else None
        node = made_by(value, "Add", "Sub", "Mul", "Div", "Pow", "Neg", "Identity")
        result = None if node is None else self._apply(node)
        if result is not None and node is not None:
            self.nodes[node] = None
        return result

    def _apply(self, node: ir.Node) -> Polynomial | None:
        parts = [self.read(v) for v in node.inputs]
        known = [p for p in parts if p is not None]
        if len(known) != len(parts):
            return None
        if node.op_type in ("Neg", "Identity"):
            return _times(known[0], {(0, 0): -1.0 if node.op_type == "Neg" else 1.0})
        left, right = known
        if node.op_type == "Mul":
            return _times(left, right)
        if node.op_type in ("Add", "Sub"):
            sign = 1.0 if node.op_type == "Add" else -1.0
            return {k: left.get(k, 0.0) + sign * right.get(k, 0.0) for k in left | right}
        number = right.get((0, 0), 0.0) if set(right) == {(0, 0)} else 0.0
        if node.op_type == "Div":
            return _times(left, {(0, 0): 1 / number}) if number else None
        return _power(left, number)


@dataclass(frozen=True)
class Gelu:
    """A GELU spelled out.

    Attributes:
        last: the node that gives it. x: what it is of. nodes: all of it. approximate: ``none`` or ``tanh``.
    """

    last: ir.Node
    x: ir.Value
    nodes: tuple[ir.Node, ...]
    approximate: str


def gelu_at(node: ir.Node) -> Gelu | Miss | None:
    """The GELU around an Erf or Tanh; ``x`` is what its end multiplies it by."""
    bend = node.outputs[0]
    nearest: Miss | None = None
    for last, x in _candidates(node):
        reader = Reader(x, bend, {})
        whole, inside = reader.read(last.outputs[0]), reader.read(node.inputs[0])
        if whole is None or inside is None:
            continue
        limit = 1e-6 if x.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE) else 1e-3
        if _equal(whole, WHOLE, limit) and _equal(inside, ERF if node.op_type == "Erf" else TANH, limit):
            return _unshared(node, last, x, reader)
        if set(_nonzero(whole)) == set(WHOLE):
            nearest = miss(f"its coefficients {_told(whole)} of {_told(inside)} are not GELU's", last, 3)
    return nearest


def _candidates(node: ir.Node) -> Iterator[tuple[ir.Node, ir.Value]]:
    """Nodes that may be the end of a GELU, with what may be its ``x``: an operand met on the way, or half of one."""
    value = node.outputs[0]
    met: dict[ir.Value, None] = {}
    for _ in range(CLIMB):
        readers = [r for r in value.consumers() if r.domain == "" and r.op_type in ("Add", "Mul", "Div")]
        if not readers:
            return
        for other in (v for v in readers[0].inputs if v is not None and v is not value and const(v) is None):
            met[other] = None
            scaled = made_by(other, "Mul", "Div")
            met |= dict.fromkeys(v for v in (scaled.inputs if scaled else ()) if v is not None and const(v) is None)
        value = readers[0].outputs[0]
        for x in met:
            yield readers[0], x


def _unshared(node: ir.Node, last: ir.Node, x: ir.Value, reader: Reader) -> Gelu | Miss:
    """The GELU, unless somebody reads along."""
    nodes = (*reader.nodes, node)
    for inner in nodes:
        value = inner.outputs[0]
        if inner is not last and (value.is_graph_output() or any(r not in nodes for r in value.consumers())):
            return miss("its value is read elsewhere too", inner, 4)
    return Gelu(last, x, nodes, "none" if node.op_type == "Erf" else "tanh")


def _times(left: Polynomial, right: Polynomial) -> Polynomial | None:
    result: Polynomial = {}
    for (a, b), s in left.items():
        for (c, d), t in right.items():
            if a + c > MOST_POWER or b + d > 1:
                return None
            result[a + c, b + d] = result.get((a + c, b + d), 0.0) + s * t
    return result


def _power(base: Polynomial, exponent: float) -> Polynomial | None:
    if exponent not in (1.0, 2.0, 3.0):
        return None
    result: Polynomial | None = base
    for _ in range(int(exponent) - 1):
        result = _times(result, base) if result is not None else None
    return result


def _nonzero(polynomial: Polynomial) -> Polynomial:
    return {power: c for power, c in polynomial.items() if c}


def _equal(have: Polynomial, want: Polynomial, limit: float) -> bool:
    have = _nonzero(have)
    return set(have) == set(want) and all(abs(have[k] - want[k]) <= limit * abs(want[k]) for k in want)


def _told(polynomial: Polynomial) -> list[float]:
    return [round(c, 6) for _, c in sorted(_nonzero(polynomial).items())]


def sample(body: str, *, outputs: str = "", opset: int = 20, head: str = "") -> onnx.ModelProto:
    """A graph with GELU's numbers by name, for the examples of rules."""
    numbers = {"root": math.sqrt(2), "coarse": 1.4142, "inverse": math.sqrt(0.5), "half": 0.5, "one": 1.0, "two": 2.0}
    numbers |= {"three": 3.0, "c": 0.044715, "k": math.sqrt(2 / math.pi)}
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    head = head or f"(float[batch,6] x) => (float[batch,6] y{outputs})"
    return graph(f"{head} {{ {body} }}", opset=opset, **{n: f32(v) for n, v in numbers.items() if n in words})
