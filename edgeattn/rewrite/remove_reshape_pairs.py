"""remove_reshape_pairs: of two shape operators in a row the second is enough.

What: a Reshape, Squeeze, Unsqueeze or Flatten that a Reshape follows goes, and so do an Unsqueeze and the Squeeze that
takes it back.

Why: every ``view`` and ``unflatten`` becomes one, split and merged heads become two in a row. None moves a byte in the
best case, but each is a launch, and they stand between the operators that engines look for.

Before: x → Reshape(b, t, h·d) → Reshape(b, t, h, d)        After: x → Reshape(b, t, h, d)

Safe when: the second one's target copies no dimension of what lies before it (it has no 0, or a 0 means 0), so the
elements alone decide; the axes that were added are the ones that go. Bit-exact.
Source: ONNX Reshape: elements keep their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.program import Program
from edgeattn.rewrite._rule import BIT_EXACT, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import attr, axes, const, dims, made_by

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build


class RemoveReshapePairs(GraphRule):
    """The first of two shape operators, dropped."""

    name = "remove_reshape_pairs"
    exactness = BIT_EXACT
    anchors = ("Reshape", "Squeeze")

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the second."""
        return self._reshape(node) if node.op_type == "Reshape" else self._squeeze(node)

    @staticmethod
    def _reshape(node: ir.Node) -> Match | Miss | None:
        first = made_by(node.inputs[0], "Reshape", "Flatten", "Squeeze", "Unsqueeze")
        if first is None:
            return None
        target = const(node.inputs[1])
        if not attr(node, "allowzero", 0) and (target is None or (target == 0).any()):
            return miss("its target may copy a dimension of what lies before it", node, 1)
        return Match(node, (first, node), {"x": first.inputs[0]})

    @staticmethod
    def _squeeze(node: ir.Node) -> Match | Miss | None:
        first = made_by(node.inputs[0], "Unsqueeze")
        if first is None:
            return None
        ours, theirs = axes(node), axes(first)
        if ours is None or ours != theirs:
            return miss(f"it takes axes {ours} away where {theirs} were added", node, 1)
        if node.outputs[0].is_graph_output():
            return miss("it gives a result of the graph its name", node, 2)
        return Match(node, (first, node), {"x": first.inputs[0]})

    def rewrite(self, match: Match, build: Build) -> None:
        """The Reshape reads further up; readers of the Squeeze do."""
        node, x = match.anchor, match.parts["x"]
        old = node.outputs[0]
        build.replace(old, x if node.op_type == "Squeeze" else build.like(node, x, node.inputs[1], shape=dims(old)))

    def examples(self) -> list[Program]:
        """Two Reshapes, the second with a target that is computed; a Flatten; an Unsqueeze taken back."""
        return as_programs(
            graph(
                "(float[batch,8] x) => (float[batch,2,4] y) { a = Reshape(x, s)  y = Reshape(a, t) }",
                s=i64(-1, 4, 2),
                t=i64(-1, 2, 4),
            ),
            graph(
                """(float[batch,8] x) => (float[batch,2,4] y) {
                    n = Shape <start = 0, end = 1> (x)  t = Concat <axis = 0> (n, two, four)
                    a = Reshape(x, s)  y = Reshape <allowzero = 1> (a, t) }""",
                s=i64(-1, 4, 2),
                two=i64(2),
                four=i64(4),
            ),
            graph(
                "(float[batch,2,4] x) => (float[batch,4,2] y) { a = Flatten(x)  y = Reshape(a, t) }", t=i64(-1, 4, 2)
            ),
            graph(
                "(float[batch,4] x) => (float[batch,4] y) { a = Unsqueeze(x, i)  b = Squeeze(a, j)  y = Relu(b) }",
                i=i64(1),
                j=i64(-2),
            ),
        )

    def near_misses(self) -> list[Program]:
        """A target that copies a dimension, one that may, another axis."""
        return as_programs(
            graph(
                "(float[batch,8] x) => (float[batch,4,2] y) { a = Reshape(x, s)  y = Reshape(a, t) }",
                s=i64(-1, 4, 2),
                t=i64(-1, 0, 2),
            ),
            graph(
                "(float[batch,8] x, int64[3] t) => (float[p,q,r] y) { a = Reshape(x, s)  y = Reshape(a, t) }",
                s=i64(-1, 4, 2),
            ),
            graph(
                "(float[1,4] x) => (float[1,4] y) { a = Unsqueeze(x, i)  b = Squeeze(a, j)  y = Relu(b) }",
                i=i64(0),
                j=i64(1),
            ),
        )

    def workload(self) -> Program:
        """The heads of attention merged and split again: 12 of 64 at 128 positions."""
        body = "a = Reshape(x, s)  b = Reshape(a, t)  y = Softmax <axis = 3> (b)"
        head = "(float[1,128,12,64] x) => (float[1,128,12,64] y)"
        return Program({"main": graph(f"{head} {{ {body} }}", s=i64(1, 128, 768), t=i64(1, 128, 12, 64))})


RULE = RemoveReshapePairs()
