"""canonicalise_general_score: the matrix of Luong's "general" score goes to the side where it costs least.

What: in hᵀ W h̄ the matrix (and its bias) may stand on the memory or on the query: ``(H W)·q = H·(W q)``. It moves to
the query where that has fewer rows, and to the memory where an encoder hands the memory over once, so that hoist_keys
takes the product out of the loop.

Why: on the memory it costs S·D² a step, on the query D² a step, in the encoder S·D² once.

Before: MatMul(MatMul(H, W), q)
After: MatMul(H, MatMul(q, Wᵀ)), or, with H handed over, MatMul(MatMul(H, W), q) from MatMul(H, MatMul(q, Wᵀ))

    H ─ MatMul W ─┐               H ──────────────┐
                  MatMul   ⇒                      MatMul
    q ────────────┘               q ─ MatMul Wᵀ ──┘

How it chooses: by rows, T of the query against S of the memory in one graph. In a program S rows once stand against T
steps of one row each; unknown, S and T count as equal (30, say). A product of one row reads the whole matrix for it and
was measured to take as long as 7 rows of a larger one (512 wide, ONNX Runtime and OpenVINO, one thread): so the keys
win unless S is known to be more than 7 times the most steps that the program takes.
Safe when: W is constant, only the score reads the projected side, and the sum runs over the last axis of both sources.
The same sums in another order.
Source: Luong et al. 2015, section 3.1, score "general"; associativity.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.program import Program, Stop, Wiring
from edgeattn.rewrite import _apply, _axes
from edgeattn.rewrite._product import Product, product
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, Outcome, ProgramRule, View, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import attr, axes, broadcast, const, dims, made_by, used_once

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build

ROWS_OF_A_VECTOR = 7  # how many rows of a matrix product take as long as a matrix-vector product


@dataclass(frozen=True)
class Side:
    """One operand of a score: the value before it was laid out, which axis of it each dimension is, and its projection.

    ``weight`` is ``(E, D)`` with the source ``below`` it; None where the source is not projected.
    """

    source: ir.Value
    laid: tuple[int | None, ...]
    below: ir.Value
    weight: Any = None
    bias: Any = None
    nodes: tuple[ir.Node, ...] = ()

    @property
    def rows(self) -> tuple[int | str | None, ...]:
        """Dimensions of the source without the last."""
        return (dims(self.below) or ())[:-1]


class _Project(GraphRule):
    """The rule on one graph; ``once`` names the inputs that are handed over before the loop, ``steps`` bounds it."""

    name = "canonicalise_general_score"
    exactness = ALLCLOSE
    anchors = ("MatMul", "ReduceSum")

    def __init__(self, once: frozenset[str], steps: int) -> None:
        self._once, self._steps = once, steps

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored where the products are summed."""
        score, axis_of = node, (-1, -2)
        if node.op_type == "ReduceSum":
            multiply, summed = made_by(node.inputs[0], "Mul"), axes(node)
            if multiply is None or summed is None or len(summed) != 1 or not used_once(multiply.outputs[0]):
                return None
            ranks = {len(dims(v) or ()) for v in (*multiply.inputs, multiply.outputs[0])}
            score, axis_of = multiply, (summed[0], summed[0])
            if len(ranks) != 1:
                return None
        left, right = (_side(v, axis) for v, axis in zip(score.inputs, axis_of, strict=True))
        if left is None or right is None or (left.weight is None and right.weight is None):
            return None
        for place, (from_, to) in enumerate(((left, right), (right, left))):
            if from_.weight is None:
                continue
            answer = self._worth(from_, to, node)
            if answer is None:
                parts = {"from": from_, "to": to, "place": place, "axes": axis_of, "score": score}
                return Match(node, (*from_.nodes, score, node), parts | {"opset": view.opset})
        return answer

    def _worth(self, from_: Side, to: Side, node: ir.Node) -> Miss | None:
        """None where the matrix should move from one side to the other."""
        if not all(used_once(n.outputs[0]) for n in from_.nodes):
            return miss("the projected value is read elsewhere too", from_.nodes[0], 2)
        here, there = Counter(from_.rows), Counter(to.rows)
        common = here & there
        ours, theirs = (_rows((c - common).elements()) for c in (here, there))
        if self._fed_once(to) != self._fed_once(from_):
            keys = theirs if self._fed_once(to) else ours
            keys_win = keys is None or keys <= ROWS_OF_A_VECTOR * self._steps
            if keys_win == self._fed_once(to):
                return None
            said = "S" if keys is None else str(keys)
            reason = f"{said} rows once against one row in each of up to {self._steps} steps: it stays where it is"
            return miss(reason, from_.nodes[0], 3)
        if theirs is not None and (theirs == 1 or (ours is not None and theirs < ours)) and ours != 1:
            return None
        unknown = "an unknown number of"
        reason = f"the projected side has {ours or unknown} rows, the other {theirs or unknown}: nothing is saved"
        return miss(reason, from_.nodes[0], 3)

    def _fed_once(self, side: Side) -> bool:
        value, _ = _axes.peeled(side.below)
        return value.is_graph_input() and (value.name or "") in self._once

    def rewrite(self, match: Match, build: Build) -> None:
        """The projection on the other side; a bias becomes a second sum."""
        old, opset = match.anchor.outputs[0], match.parts["opset"]
        from_, to, place, score = (match.parts[k] for k in ("from", "to", "place", "score"))
        plain = _relaid(build, from_.below, from_, score.inputs[place], opset)
        projected = _relaid(build, _times(build, to, from_.weight.T, "turned"), to, score.inputs[1 - place], opset)
        pair = (plain, projected) if place == 0 else (projected, plain)
        total = _summed(build, match, pair, dims(old))
        if from_.bias is not None:
            extra = _times(build, to, from_.bias.reshape(-1, 1), "bias")
            extra = _relaid(build, extra, to, score.inputs[1 - place], opset)
            if match.anchor.op_type == "ReduceSum" and not attr(match.anchor, "keepdims", 1):
                extra = _axes.squeeze(build, extra, [match.parts["axes"][0]], opset)
            total = build.op("Add", total, extra, shape=broadcast([dims(total), dims(extra)]))
        build.replace(old, total)

    def examples(self) -> list[Program]:
        """Those of the program rule."""
        return []

    def near_misses(self) -> list[Program]:
        """Those of the program rule."""
        return []


class CanonicaliseGeneralScore(ProgramRule):
    """W of hᵀ W h̄ on the side where it costs least."""

    name = "canonicalise_general_score"
    exactness = ALLCLOSE

    def apply(self, program: Program) -> Outcome:
        """Each graph on its own; the loop knows what is handed over once, and how often it may run."""
        count, graphs = 0, dict(program.graphs)
        misses: list[Miss] = []
        for name, model in program.graphs.items():
            outcome = _apply.apply(_rule_for(name, program.wiring), Program({name: model}))
            graphs[name], count = outcome.program.graphs[name], count + outcome.count
            misses += outcome.misses
        return Outcome(replace(program, graphs=graphs) if count else program, count, tuple(misses))

    def examples(self) -> list[Program]:
        """One graph: onto the query, as MatMul either way, as a sum, with a bias. A program: onto the memory."""
        single = [
            "k = MatMul(memory, w)  c = Unsqueeze(q, two)  y = MatMul(k, c)",
            "p = MatMul(memory, w)  k = Add(b, p)  c = Unsqueeze(q, two)  y = MatMul(k, c)",
            """k = MatMul(memory, w)  t = Transpose <perm = [0, 2, 1]> (k)  c = Unsqueeze(q, one)
               s = MatMul(c, t)  y = Transpose <perm = [0, 2, 1]> (s)""",
            """p = MatMul(memory, w)  k = Add(p, b)  c = Unsqueeze(q, one)  m = Mul(c, k)
               y = ReduceSum <keepdims = 1> (m, two)""",
        ]
        return [Program({"main": _graph(text)}) for text in single] + [_loop("source")]

    def near_misses(self) -> list[Program]:
        """On the query already; keys that are read; as many rows either way; many more rows than steps."""
        two = """(float[batch,s,5] memory, float[batch,t,4] q) => (float[batch,s,t] y) {
            k = MatMul(memory, w)  c = Transpose <perm = [0, 2, 1]> (q)  y = MatMul(k, c) }"""
        return [
            Program({"main": _graph("p = MatMul(q, v)  c = Unsqueeze(p, two)  y = MatMul(memory, c)", v=(4, 5))}),
            Program({"main": _graph("k = MatMul(memory, w)  c = Unsqueeze(q, two)  y = MatMul(k, c)", more="k")}),
            Program({"main": graph(two, w=(5, 4))}),
            _loop("99"),
        ]

    def workload(self) -> Program:
        """A step with 200 positions of width 512."""
        return Program(
            {
                "main": graph(
                    """(float[1,200,512] memory, float[1,512] q) => (float[1,200,1] y) {
                        k = MatMul(memory, w)  c = Unsqueeze(q, two)  y = MatMul(k, c) }""",
                    w=(512, 512),
                    two=i64(2),
                )
            }
        )


def _rule_for(name: str, wiring: Wiring | None) -> _Project:
    if wiring is None or name != wiring.loop:
        return _Project(frozenset(), 1)
    once = {e.split(".", 1)[1] for e in wiring.feeds if e.startswith(f"{name}.") and e not in wiring.state}
    return _Project(frozenset(once), wiring.stop.max_steps)


def _side(value: ir.Value | None, axis: int) -> Side | None:
    """An operand whose summed axis is the last of its source."""
    if value is None or dims(value) is None:
        return None
    source, laid = _axes.peeled(value)
    rank = len(dims(source) or ())
    if rank < 2 or len(laid) < 2 or laid[axis] != rank - 1:
        return None
    found = _projection(source)
    return replace(found, laid=laid) if found is not None else Side(source, laid, source)


def _projection(source: ir.Value) -> Side | None:
    """MatMul or Gemm by a constant matrix, with or without an Add of a constant row."""
    add, bias, value = made_by(source, "Add"), None, source
    for operand, constant in (add.inputs, add.inputs[::-1]) if add is not None else ():
        row = const(constant)
        if row is not None and operand is not None and row.ndim == 1 and len(row) == (dims(source) or (None,))[-1]:
            bias, value = row, operand
    node = made_by(value, "MatMul", "Gemm")
    found = product(node) if node is not None and const(node.inputs[1]) is not None else None
    if not isinstance(found, Product) or node is None or found.form != "right" or node.inputs[0] is None:
        return None
    nodes = (add, node) if bias is not None and add is not None else (node,)
    both = [b for b in (bias, found.bias) if b is not None]
    row = np.sum(both, axis=0) if both else None
    return Side(source, (), node.inputs[0], found.matrix, row, nodes)


def _rows(sizes: Any) -> int | None:
    """Their product; None where one is not a number."""
    total = 1
    for size in sizes:
        if not isinstance(size, int):
            return None
        total *= size
    return total


def _times(build: Build, side: Side, matrix: Any, stem: str) -> ir.Value:
    """A side's source, its own projection included, times a matrix."""
    array = np.ascontiguousarray(matrix)
    shape = (*(dims(side.source) or ())[:-1], array.shape[1])
    return build.op("MatMul", side.source, build.const(f"score_{stem}", array), shape=shape)


def _relaid(build: Build, value: ir.Value, side: Side, like: ir.Value | None, opset: int) -> ir.Value:
    """``value`` laid out as a side was: its axes moved, and dimensions of size 1 put in."""
    order = [axis for axis in side.laid if axis is not None]
    gone = [axis for axis in range(len(dims(value) or ())) if axis not in order]
    value = _axes.squeeze(build, value, gone, opset)
    kept = sorted(order)
    value = _axes.transpose(build, value, [kept.index(axis) for axis in order])
    return _axes.unsqueeze(build, value, [place for place, axis in enumerate(side.laid) if axis is None], opset)


def _summed(build: Build, match: Match, pair: tuple[ir.Value, ir.Value], shape: Any) -> ir.Value:
    """The score of two operands as the graph takes it."""
    node = match.anchor
    if node.op_type == "MatMul":
        return build.op("MatMul", *pair, shape=shape)
    multiplied = build.op("Mul", *pair, shape=broadcast([dims(v) for v in pair]))
    return build.like(node, multiplied, *node.inputs[1:], shape=shape)


def _graph(text: str, more: str = "", **weights: Any) -> Any:
    """One step's score ``y`` of a query and a memory."""
    also = f", float[batch,s,4] {more}" if more else ""
    named = {"w": (5, 4), "b": (4,), "one": i64(1), "two": i64(2)} | weights
    return graph(f"(float[batch,s,5] memory, float[batch,4] q) => (float[batch,s,1] y{also}) {{ {text} }}", **named)


def _loop(source: str) -> Program:
    """A decoder whose query is projected, over a memory of ``source`` positions."""
    memory = f"float[batch,{source},4] memory"
    encoder = graph(f"(float[batch,{source},4] x) => ({memory}) {{ memory = Tanh(x) }}")
    step = graph(
        f"""(int64[batch] token, float[batch,4] h, {memory}) => (float[batch,5] logits, float[batch,4] h_out) {{
            e = Gather(table, token)  h_out = Add(e, h)  q = Gemm(h_out, w, b)  c = Unsqueeze(q, two)
            s = MatMul(memory, c)  a = Softmax <axis = 1> (s)  m = Mul(a, memory)
            r = ReduceSum <keepdims = 0> (m, one)  logits = MatMul(r, output) }}""",
        table=(5, 4), w=(4, 4), b=(4,), output=(4, 5), one=i64(1), two=i64(2),
    )  # fmt: skip
    feeds, state = {"step.memory": "encoder.memory"}, {"step.h": "step.h_out"}
    return Program({"encoder": encoder, "step": step}, Wiring(feeds, state, Stop("step.token", "step.logits", 0, 1, 4)))


RULE = CanonicaliseGeneralScore()
