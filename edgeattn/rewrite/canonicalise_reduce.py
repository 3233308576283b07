"""canonicalise_reduce: one spelling for reductions that keep their rank.

What: ReduceMax/ReduceMean/… with keepdims=0 and an Unsqueeze on the same axes become one node with keepdims=1;
TopK with k=1 whose indices nobody reads becomes ReduceMax. Outputs that nobody reads (ArgMax, TopK indices)
disappear with them.

Why: ``x.max(1)[0].unsqueeze(1)`` in CBAM's spatial gate is three operators in some exports and one in others;
the rules that follow, quantizers and TensorRT (constant axes) want the one.

Before: ReduceMax(axes=1, keepdims=0) → Unsqueeze(axes=1)        After: ReduceMax(axes=1, keepdims=1)
Before: TopK(k=1, axis=1).values                                 After: ReduceMax(axes=1, keepdims=1)

Safe when: the axes are constant and equal, and nothing else reads the squeezed value. Bit-exact.
Source: CBAM, Woo et al. 2018, section 3 (spatial attention); ONNX operator specification of Reduce*.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeattn.rewrite._rule import BIT_EXACT, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import attr, axes, const, dims, made_by, used_once

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build

REDUCTIONS = ("ReduceMax", "ReduceMean", "ReduceSum", "ReduceMin", "ReduceL2", "ReduceProd")


class CanonicaliseReduce(GraphRule):
    """Reduce + Unsqueeze, and TopK(1), as one Reduce with keepdims=1."""

    name = "canonicalise_reduce"
    exactness = BIT_EXACT
    anchors = ("Unsqueeze", "TopK")

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the Unsqueeze that undoes keepdims=0, or at the TopK."""
        return self._match_top1(node, view) if node.op_type == "TopK" else self._match_unsqueeze(node)

    def _match_unsqueeze(self, node: ir.Node) -> Match | Miss | None:
        reduce = made_by(node.inputs[0], *REDUCTIONS)
        if reduce is None or attr(reduce, "keepdims", 1):
            return None
        if axes(reduce) is None or axes(node) is None:
            return miss("its axes are not constant, or its input's rank is unknown", reduce, 1)
        if axes(reduce) != axes(node):
            return miss(f"unsqueezes axes {axes(node)}, but {axes(reduce)} were reduced", node, 1)
        if not used_once(reduce.outputs[0]):
            return miss("the squeezed value is read elsewhere too", reduce, 2)
        return Match(node, (reduce, node), {"reduce": reduce})

    def _match_top1(self, node: ir.Node, view: View) -> Match | Miss | None:
        k = const(node.inputs[1])
        if k is None or int(k.reshape(-1)[0]) != 1:
            return None
        if not attr(node, "largest", 1):
            return miss("it takes the smallest value", node, 1)
        if node.outputs[1].uses() or node.outputs[1].is_graph_output():
            return miss("its indices are read", node, 1)
        return Match(node, (node,), {"axis": attr(node, "axis", -1), "opset": view.opset})

    def rewrite(self, match: Match, build: Build) -> None:
        """One Reduce with keepdims=1 takes the place of the pair."""
        old = match.anchor.outputs[0]
        if match.anchor.op_type == "TopK":
            x, axis = match.anchor.inputs[0], match.parts["axis"]
            if match.parts["opset"] >= 18:
                axis_value = build.const("reduce_axes", np.array([axis], np.int64))
                new = build.op("ReduceMax", x, axis_value, shape=dims(old), keepdims=1)
            else:
                new = build.op("ReduceMax", x, shape=dims(old), axes=[axis], keepdims=1)
        else:
            reduce = match.parts["reduce"]
            attributes = {k: a.value for k, a in reduce.attributes.items() if k != "keepdims"}
            new = build.op(reduce.op_type, *reduce.inputs, shape=dims(old), source=reduce, keepdims=1, **attributes)
        build.replace(old, new)

    def examples(self) -> list[Program]:
        """CBAM's channel maximum in two spellings, and a mean."""
        return as_programs(
            graph(
                """(float[batch,6,h,w] x) => (float[batch,1,h,w] y) {
                    r = ReduceMax <keepdims = 0> (x, axes)
                    y = Unsqueeze(r, axes) }""",
                axes=i64(1),
            ),
            graph(
                """(float[batch,6,h,w] x) => (float[batch,1,h,w] y) {
                    r = ReduceMean <keepdims = 0, axes = [1]> (x)
                    y = Unsqueeze(r, axes) }""",
                axes=i64(-3),
                opset=17,
            ),
            graph(
                "(float[batch,6,h,w] x) => (float[batch,1,h,w] y) { y, i = TopK <axis = 1> (x, k) }",
                k=i64(1),
            ),
        )

    def near_misses(self) -> list[Program]:
        """Another axis comes back; the squeezed value leaves the graph; the indices do; the smallest is taken."""
        return as_programs(
            graph(
                """(float[batch,6,h,w] x) => (float[batch,h,1,w] y) {
                    r = ReduceMax <keepdims = 0> (x, one)
                    y = Unsqueeze(r, two) }""",
                one=i64(1),
                two=i64(2),
            ),
            graph(
                """(float[batch,6,h,w] x) => (float[batch,1,h,w] y, float[batch,h,w] r) {
                    r = ReduceMax <keepdims = 0> (x, axes)
                    y = Unsqueeze(r, axes) }""",
                axes=i64(1),
            ),
            graph(
                "(float[batch,6,h,w] x) => (float[batch,1,h,w] y, int64[batch,1,h,w] i) { y, i = TopK<axis=1>(x, k) }",
                k=i64(1),
            ),
            graph(
                "(float[batch,6,h,w] x) => (float[batch,1,h,w] y) { y, i = TopK <axis = 1, largest = 0> (x, k) }",
                k=i64(1),
            ),
        )

    def workload(self) -> Program:
        """The spatial gate after ResNet-50's first stage, as ``torch.max(x, 1)[0].unsqueeze(1)``."""
        return as_programs(
            graph(
                """(float[1,256,56,56] x) => (float[1,256,56,56] y) {
                    top = ReduceMax <keepdims = 0> (x, axes)
                    peak = Unsqueeze(top, axes)
                    middle = ReduceMean <keepdims = 0> (x, axes)
                    mean = Unsqueeze(middle, axes)
                    both = Concat <axis = 1> (peak, mean)
                    logit = Conv <pads = [3, 3, 3, 3]> (both, weight)
                    mask = Sigmoid(logit)
                    y = Mul(x, mask) }""",
                axes=i64(1),
                weight=(1, 2, 7, 7),
            )
        )[0]


RULE = CanonicaliseReduce()
