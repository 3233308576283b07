"""remove_transpose_pair: two Transposes that undo each other disappear.

What: Transpose(Transpose(x, p), q) where q undoes p becomes x.

Why: exporters put a Transpose before and after a recurrent layer or an attention head; where two layers meet, the
pair copies the tensor twice for nothing.

Before: Relu(Transpose(Transpose(x, [1, 0, 2]), [1, 0, 2]))        After: Relu(x)

Safe when: the two permutations compose to the identity. The inner Transpose stays if something else reads it.
Bit-exact.
Source: ONNX Transpose-13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.rewrite._rule import BIT_EXACT, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build


class RemoveTransposePair(GraphRule):
    """Transposes that compose to the identity, dropped."""

    name = "remove_transpose_pair"
    exactness = BIT_EXACT
    anchors = ("Transpose",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the outer Transpose."""
        value = node.inputs[0]
        inner = value.producer() if value is not None else None
        if inner is None or inner.op_type != "Transpose":
            return None
        first, second = permutation(inner), permutation(node)
        if first is None or second is None or [first[axis] for axis in second] != sorted(first):
            return miss(f"{second} does not undo {first}", node, 1)
        if node.outputs[0].is_graph_output():
            return miss("its result leaves the graph", node, 2)
        return Match(node, (inner, node), {"x": inner.inputs[0]})

    def rewrite(self, match: Match, build: Build) -> None:
        """Readers take what went into the inner Transpose."""
        build.replace(match.anchor.outputs[0], match.parts["x"])

    def examples(self) -> list[Program]:
        """A pair between two elementwise nodes."""
        return as_programs(
            graph(
                """(float[batch,3,5] x) => (float[batch,3,5] y) {
                    a = Transpose <perm = [2, 0, 1]> (x)
                    b = Transpose <perm = [1, 2, 0]> (a)
                    y = Relu(b) }"""
            )
        )

    def near_misses(self) -> list[Program]:
        """A pair that turns further instead of back."""
        return as_programs(
            graph(
                """(float[batch,3,5] x) => (float[3,5,batch] y) {
                    a = Transpose <perm = [2, 0, 1]> (x)
                    b = Transpose <perm = [2, 0, 1]> (a)
                    y = Relu(b) }"""
            )
        )


def permutation(node: ir.Node) -> list[int] | None:
    """The node's permutation; None where it is the default reversal, whose rank the node does not tell."""
    attribute = node.attributes.get("perm")
    return None if attribute is None else list(attribute.as_ints())


RULE = RemoveTransposePair()
