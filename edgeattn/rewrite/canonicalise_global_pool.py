"""canonicalise_global_pool: pooling over a whole feature map says so.

What: MaxPool and AveragePool whose window is the whole H×W, ReduceMax and ReduceMean over the last two axes, at once or
one after the other, and a mean or maximum over H·W after a flatten, become GlobalMaxPool and GlobalAveragePool (and
Flatten or Reshape where dimensions were dropped).

Why: the original CBAM code pools with ``kernel = (H, W)``, which freezes the input size into the graph and runs into
TensorRT's limit on pooling windows (about 300×300 passes, 384×384 does not). A global pool follows any size.

Before: AveragePool(kernel=[14, 14])        After: GlobalAveragePool
Before: Reshape([N, C, H·W]) → ReduceMean(axes=-1, keepdims=0)        After: GlobalAveragePool → Flatten(axis=1)

Safe when: H and W are known and equal the window, without padding; or the reduction covers exactly H and W of a
feature map in NCHW order. The maximum is bit-exact, the mean adds in another order.
Source: CBAM, Woo et al. 2018, section 3 (channel attention); TensorRT's IPoolingLayer limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import attr, axes, dims, made_by, rank

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build

GLOBAL = {
    "AveragePool": "GlobalAveragePool",
    "ReduceMean": "GlobalAveragePool",
    "MaxPool": "GlobalMaxPool",
    "ReduceMax": "GlobalMaxPool",
}


class CanonicaliseGlobalPool(GraphRule):
    """Whole-map pools and reductions as Global*Pool."""

    name = "canonicalise_global_pool"
    exactness = ALLCLOSE
    anchors = tuple(GLOBAL)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the pool or reduction."""
        if node.inputs[0] is None or (
            node.inputs[0].dtype is not None and not node.inputs[0].dtype.is_floating_point()
        ):
            return None
        return self._match_pool(node) if node.op_type.endswith("Pool") else self._match_reduce(node)

    def _match_pool(self, node: ir.Node) -> Match | Miss | None:
        shape, kernel = dims(node.inputs[0]), list(attr(node, "kernel_shape", ()))
        if shape is None or len(shape) != 4:
            return miss(f"its input's shape is {shape}; a 4-D feature map is needed", node, 0)
        if list(shape[2:]) != kernel:
            return miss(f"its window {kernel} is not proven to be the whole map {list(shape[2:])}", node, 1)
        if any(attr(node, "pads", ())) or attr(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return miss("it pads its input", node, 2)
        if any(d != 1 for d in attr(node, "dilations", ())):
            return miss("its window is dilated", node, 2)
        if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
            return miss("its indices are read", node, 3)
        return Match(node, (node,), {"x": node.inputs[0], "keeps_rank": True})

    def _match_reduce(self, node: ir.Node) -> Match | Miss | None:
        size, over, keeps = rank(node.inputs[0]), axes(node), bool(attr(node, "keepdims", 1))
        if size == 4 and over == (2, 3):
            return Match(node, (node,), {"x": node.inputs[0], "keeps_rank": keeps})
        if size == 3 and over == (2,) and made_by(node.inputs[0], "Reshape") is not None:
            return self._match_flattened(node, keeps)
        if over == (2,) and (rows := made_by(node.inputs[0], node.op_type)) is not None:
            return self._match_rows(node, rows, keeps)
        return miss(f"it reduces axes {over} of a tensor of rank {size}, not H and W of a feature map", node, 0)

    def _match_flattened(self, node: ir.Node, keeps: bool) -> Match | Miss:
        reshape = made_by(node.inputs[0], "Reshape")
        assert reshape is not None
        before, after = dims(reshape.inputs[0]), dims(reshape.outputs[0])
        if before is None or after is None or len(before) != 4:
            return miss(f"it flattens {before}, not a 4-D feature map", reshape, 1)
        # N and C in their places prove that the rest is H·W; so does a known C with a known H·W.
        in_place = before[:2] == after[:2] and before[0] is not None
        counted = before[1] == after[1] and isinstance(before[1], int) and _product(before[2:]) == after[2]
        if not in_place and not (counted and after[2] is not None):
            return miss(f"it is not proven that {before} becomes (N, C, H·W); got {after}", reshape, 2)
        return Match(node, (reshape, node), {"x": reshape.inputs[0], "keeps_rank": False})

    def _match_rows(self, node: ir.Node, rows: ir.Node, keeps: bool) -> Match | Miss:
        """Over W first, then over H."""
        if rank(rows.inputs[0]) != 4 or axes(rows) != (3,) or bool(attr(rows, "keepdims", 1)) != keeps:
            return miss(f"it reduces axes {axes(rows)} of a tensor of rank {rank(rows.inputs[0])}, not W", rows, 1)
        return Match(node, (rows, node), {"x": rows.inputs[0], "keeps_rank": keeps})

    def rewrite(self, match: Match, build: Build) -> None:
        """A global pool, and a Flatten where the reduction dropped the two dimensions."""
        x, old = match.parts["x"], match.anchor.outputs[0]
        shape = dims(x)
        pooled_shape = (*shape[:2], 1, 1) if shape else None
        pooled = build.op(GLOBAL[match.anchor.op_type], x, shape=pooled_shape)
        if match.parts["keeps_rank"]:
            build.replace(old, pooled)
        elif rank(old) == 3:
            build.replace(old, build.op("Reshape", pooled, build.const("to_rows", i64(0, 0, -1)), shape=dims(old)))
        else:
            build.replace(old, build.op("Flatten", pooled, shape=dims(old), axis=1))

    def examples(self) -> list[Program]:
        """The spellings PyTorch code uses, in both opset styles."""
        return as_programs(
            graph(
                """(float[batch,4,6,5] x) => (float[batch,4,1,1] y) {
                    y = AveragePool <kernel_shape = [6, 5], strides = [6, 5], count_include_pad = 1> (x) }"""
            ),
            graph("(float[batch,4,6,5] x) => (float[batch,4,1,1] y) { y = MaxPool <kernel_shape = [6, 5]> (x) }"),
            graph("(float[batch,4,h,w] x) => (float[batch,4,1,1] y) { y = ReduceMax(x, axes) }", axes=i64(-1, -2)),
            graph(
                "(float[batch,4,h,w] x) => (float[batch,4] y) { y = ReduceMean <axes = [2, 3], keepdims = 0> (x) }",
                opset=17,
            ),
            graph(
                """(float[batch,4,6,5] x) => (float[batch,4] y) {
                    flat = Reshape(x, shape)
                    y = ReduceMean <keepdims = 0> (flat, axes) }""",
                shape=i64(0, 4, -1),
                axes=i64(-1),
            ),
            graph(
                """(float[batch,4,6,5] x) => (float[batch,4,1] y) {
                    flat = Reshape(x, shape)
                    y = ReduceMax(flat, axes) }""",
                shape=i64(0, 4, -1),
                axes=i64(-1),
            ),
            graph(
                """(float[batch,4,h,w] x) => (float[batch,4] y) {
                    rows = ReduceMean <keepdims = 0> (x, third)
                    y = ReduceMean <keepdims = 0> (rows, second) }""",
                third=i64(3),
                second=i64(2),
            ),
            graph(
                """(float[batch,4,h,w] x) => (float[batch,4,1,1] y) {
                    rows = ReduceMax(x, last)
                    y = ReduceMax(rows, before) }""",
                last=i64(-1),
                before=i64(-2),
            ),
        )

    def near_misses(self) -> list[Program]:
        """A smaller window, a map of unknown size, padding, channels, and a flatten that mixes channels in."""
        return as_programs(
            graph("(float[batch,4,6,6] x) => (float[batch,4,2,2] y) { y = MaxPool <kernel_shape = [5, 5]> (x) }"),
            graph("(float[batch,4,h,w] x) => (float[batch,4,p,q] y) { y = MaxPool <kernel_shape = [6, 6]> (x) }"),
            graph(
                """(float[batch,4,6,6] x) => (float[batch,4,3,3] y) {
                    y = AveragePool <kernel_shape = [6, 6], pads = [1, 1, 1, 1]> (x) }"""
            ),
            graph("(float[batch,4,h,w] x) => (float[batch,1,h,w] y) { y = ReduceMean(x, axes) }", axes=i64(1)),
            graph(
                """(float[batch,4,6,5] x) => (float[batch,2] y) {
                    flat = Reshape(x, shape)
                    y = ReduceMax <keepdims = 0> (flat, axes) }""",
                shape=i64(0, 2, -1),
                axes=i64(-1),
            ),
        )

    def workload(self) -> Program:
        """Both poolings of the original CBAM after ResNet-50's first stage."""
        return as_programs(
            graph(
                """(float[1,256,56,56] x) => (float[1,256,1,1] y) {
                    mean = AveragePool <kernel_shape = [56, 56], strides = [56, 56]> (x)
                    peak = MaxPool <kernel_shape = [56, 56], strides = [56, 56]> (x)
                    y = Add(mean, peak) }"""
            )
        )[0]


def _product(shape: tuple[int | str | None, ...]) -> int | None:
    total = 1
    for d in shape:
        if not isinstance(d, int):
            return None
        total *= d
    return total


RULE = CanonicaliseGlobalPool()
