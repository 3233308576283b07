"""remove_softmax_before_argmax: the most probable word is the one with the largest logit.

What: an ArgMax of Softmax, LogSoftmax, or the Log of a Softmax reads the logits instead.

Why: a greedy decoder needs one integer a step; exponentials and a sum over the whole vocabulary say nothing about it.

Before: ArgMax(LogSoftmax(x))        After: ArgMax(x)

Safe when: both work along the same axis and nothing else reads the probabilities. Softmax is increasing, so the order
stays; but it rounds: two logits that differ may give equal probabilities, of which ArgMax takes the first (the last
with ``select_last_index``). There the answer differs, and the logits' is the right one. A row of logits with NaN or
+Inf, or of -Inf alone, has NaN probabilities everywhere, and what ArgMax makes of them is the engine's own affair.
Source: monotony of exp; ONNX operators ArgMax and Softmax (before opset 13 it normalises all axes from its own on).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.rewrite._rule import Exactness, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph
from edgeattn.rewrite._view import attr, dims, made_by, used_once

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build


class RemoveSoftmaxBeforeArgmax(GraphRule):
    """ArgMax over probabilities, of the logits."""

    name = "remove_softmax_before_argmax"
    exactness = Exactness(
        "conditional", condition="the largest logit is finite, and no other rounds to the same probability"
    )
    anchors = ("ArgMax",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the ArgMax."""
        log = made_by(node.inputs[0], "Log")
        softmax = made_by(
            log.inputs[0] if log else node.inputs[0], *(("Softmax",) if log else ("Softmax", "LogSoftmax"))
        )
        if softmax is None:
            return None
        shape = dims(softmax.inputs[0])
        if shape is None:
            return miss("its rank is unknown, so its axes cannot be compared", softmax, 1)
        ours = attr(node, "axis", 0) % len(shape)
        theirs = attr(softmax, "axis", -1 if view.opset >= 13 else 1) % len(shape)
        if ours != theirs and (view.opset >= 13 or ours < theirs):
            return miss(f"it normalises axis {theirs}, but the largest is sought along axis {ours}", softmax, 1)
        for step in (softmax, log):
            if step is not None and not used_once(step.outputs[0]):
                return miss("the probabilities are read elsewhere too", step, 2)
        nodes = tuple(n for n in (softmax, log, node) if n is not None)
        return Match(node, nodes, {"logits": softmax.inputs[0]})

    def rewrite(self, match: Match, build: Build) -> None:
        """The same ArgMax on the logits."""
        old = match.anchor.outputs[0]
        build.replace(old, build.like(match.anchor, match.parts["logits"], shape=dims(old)))

    def examples(self) -> list[Program]:
        """Softmax and LogSoftmax; Log of Softmax; without keepdims, the last of equals; an older opset's flattening."""
        head = "(float[batch,5] x) => (int64[batch,1] y)"
        return as_programs(
            graph(f"{head} {{ p = Softmax(x)  y = ArgMax <axis = 1> (p) }}"),
            graph(f"{head} {{ p = LogSoftmax <axis = 1> (x)  y = ArgMax <axis = -1> (p) }}"),
            graph(f"{head} {{ p = Softmax(x)  l = Log(p)  y = ArgMax <axis = 1> (l) }}"),
            graph(
                """(float[batch,s,5] x) => (int64[batch,s] y) {
                    p = LogSoftmax <axis = -1> (x)
                    y = ArgMax <axis = 2, keepdims = 0, select_last_index = 1> (p) }"""
            ),
            graph(
                """(float[batch,3,5] x) => (int64[batch,3,1] y) {
                    p = Softmax <axis = 1> (x)
                    y = ArgMax <axis = 2> (p) }""",
                opset=11,
            ),
        )

    def near_misses(self) -> list[Program]:
        """Another axis, in both meanings of Softmax's axis; probabilities that are read."""
        across = "{ p = Softmax <axis = 2> (x)  y = ArgMax <axis = 1> (p) }"
        return as_programs(
            graph(f"(float[batch,3,5] x) => (int64[batch,1,5] y) {across}"),
            graph(f"(float[batch,3,5] x) => (int64[batch,1,5] y) {across}", opset=11),
            graph(
                """(float[batch,5] x) => (int64[batch,1] y, float[batch,5] p) {
                    p = Softmax(x)
                    y = ArgMax <axis = 1> (p) }"""
            ),
        )

    def workload(self) -> Program:
        """A vocabulary of 8,000 words."""
        tail = "{ p = LogSoftmax(x)  y = ArgMax <axis = 1> (p) }"
        return as_programs(graph(f"(float[1,8000] x) => (int64[1,1] y) {tail}"))[0]


RULE = RemoveSoftmaxBeforeArgmax()
