"""remove_expand: broadcasting does the work of Expand.

What: an Expand or Tile that only feeds elementwise operators, whose other operands already have the full shape,
is dropped, and with it the Shape → Gather → Concat chain that computed its target.

Why: ``x * gate.expand_as(x)`` writes an N·C·H·W tensor that a broadcasting Mul never needs.

Before: Mul(x, Expand(gate, Shape(x)))        After: Mul(x, gate)

Safe when: for every reader, the other operands and the small value together broadcast to the shape it had: proven
dimension by dimension, by number or by the same symbol; or, where an exporter computes the target by arithmetic on
the input's size, at a series of concrete sizes. Bit-exact.
Source: ONNX broadcasting rules (multidirectional).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeattn.rewrite._rule import BIT_EXACT, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import f32, graph, i64
from edgeattn.rewrite._view import BROADCASTING, broadcast, covers, dims, expanded

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build
    from edgeattn.rewrite._sizes import Sample


ENOUGH = 8  # sampled sizes; fewer say too little about remainders


class RemoveExpand(GraphRule):
    """Expand before broadcasting operators, dropped."""

    name = "remove_expand"
    exactness = BIT_EXACT
    anchors = ("Expand", "Tile")

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the Expand; every reader must be able to do without."""
        small, big = node.inputs[0], node.outputs[0]
        if big.is_graph_output():
            return miss("its result leaves the graph", node, 0)
        wide = expanded(node)
        if wide is None:
            return miss(f"it does more than repeat dimensions of size 1 of {dims(small)}", node, 0)
        for reader in big.consumers():
            if reader.domain != "" or reader.op_type not in BROADCASTING:
                return miss(f"{reader.op_type} does not broadcast", reader, 1)
            others = [dims(v) for v in reader.inputs if v is not None and v is not big]
            target = broadcast([*others, wide])
            proven = bool(others) and covers([*others, dims(small)], target)
            if not proven and not _agrees(reader, big, small, view.samples()):
                return miss(f"{others} and {dims(small)} are not proven to broadcast to {target}", reader, 2)
        return Match(node, (node,), {})

    def rewrite(self, match: Match, build: Build) -> None:
        """Readers take the small value."""
        small = match.anchor.inputs[0]
        assert small is not None
        build.replace(match.anchor.outputs[0], small)

    def examples(self) -> list[Program]:
        """expand_as by Shape, by a target computed in two ways, by Tile, and the zeros of a masked softmax."""
        return as_programs(
            graph(
                """(float[batch,4,h,w] x, float[batch,4,1,1] gate) => (float[batch,4,h,w] y) {
                    size = Shape(x)
                    wide = Expand(gate, size)
                    y = Mul(x, wide) }"""
            ),
            graph(
                """(float[batch,4,6,6] x, float[batch,4,1,1] gate) => (float[batch,4,6,6] y) {
                    n = Shape <start = 0, end = 1> (x)
                    size = Concat <axis = 0> (n, rest)
                    wide = Expand(gate, size)
                    y = Mul(wide, x) }""",
                rest=i64(4, 6, 6),
            ),
            graph(
                """(float[batch,4,h,w] x) => (float[batch,4,p,q] y) {
                    z = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x)
                    gate = GlobalMaxPool(z)
                    n = Shape <start = 0, end = 2> (x)
                    hw = Shape <start = 2> (x)
                    less = Sub(hw, one)
                    half = Div(less, two)
                    more = Add(half, one)
                    size = Concat <axis = 0> (n, more)
                    wide = Expand(gate, size)
                    y = Mul(z, wide) }""",
                one=i64(1),
                two=i64(2),
            ),
            graph(
                """(float[batch,4,6,6] x, float[batch,4,1,1] gate) => (float[batch,4,6,6] y) {
                    wide = Tile(gate, times)
                    y = Add(x, wide) }""",
                times=i64(1, 1, 6, 6),
            ),
            graph(
                """(bool[batch,s] mask, float[batch,s] a) => (float[batch,s] y) {
                    size = Shape(a)
                    zeros = Expand(zero, size)
                    y = Where(mask, a, zeros) }""",
                zero=f32(0.0),
            ),
        )

    def near_misses(self) -> list[Program]:
        """The result itself, a concatenation, something larger than the other operand, true repetition, one row off."""
        return as_programs(
            graph("(float[batch,1] x) => (float[batch,5] y) { y = Expand(x, size) }", size=i64(1, 5)),
            graph(
                """(float[batch,s,4] x, float[batch,1,4] q) => (float[batch,s,8] y) {
                    size = Shape(x)
                    wide = Expand(q, size)
                    y = Concat <axis = 2> (wide, x) }"""
            ),
            graph(
                """(float[batch,1] x, float[batch,1] z) => (float[batch,5] y) {
                    wide = Expand(x, size)
                    y = Mul(wide, z) }""",
                size=i64(1, 5),
            ),
            graph(
                """(float[batch,6] x, float[batch,3] z) => (float[batch,6] y) {
                    wide = Tile(z, times)
                    y = Mul(wide, x) }""",
                times=i64(1, 2),
            ),
            graph(
                """(float[batch,4,h,w] x) => (float[batch,4,p,q] y) {
                    z = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (x)
                    gate = GlobalMaxPool(z)
                    n = Shape <start = 0, end = 2> (x)
                    hw = Shape <start = 2> (x)
                    half = Div(hw, two)
                    size = Concat <axis = 0> (n, half)
                    wide = Expand(gate, size)
                    y = Mul(z, wide) }""",
                two=i64(2),
            ),
        )

    def workload(self) -> Program:
        """``x * gate.expand_as(x)`` after ResNet-50's first stage."""
        return as_programs(
            graph(
                """(float[1,256,56,56] x, float[1,256,1,1] gate) => (float[1,256,56,56] y) {
                    wide = Expand(gate, size)
                    y = Mul(x, wide) }""",
                size=i64(1, 256, 56, 56),
            )
        )[0]


def _agrees(reader: ir.Node, big: ir.Value, small: ir.Value | None, samples: list[Sample]) -> bool:
    """Whether the reader's shape is the same without the expand at every size the graph can take, of which are many."""
    if small is None:
        return False
    agreeing = 0
    for shapes in samples:
        others = [shapes.get(v.name or "") for v in reader.inputs if v is not None and v is not big]
        ours, wide = shapes.get(small.name or ""), shapes.get(big.name or "")
        known = [shape for shape in others if shape is not None]
        whole = _broadcast([*known, wide]) if wide is not None else None
        if not shapes.defined or (wide is not None and whole is None):
            continue
        if ours is None or not known or len(known) < len(others) or _broadcast([*known, ours]) != whole:
            return False
        agreeing += 1
    return agreeing >= ENOUGH


def _broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


RULE = RemoveExpand()
