"""split_concat_score: additive attention without the concatenated tensor.

What: ``W[h; h̄]`` over every source position, written as Expand + Concat + MatMul, becomes ``W₁h + W₂h̄``, where h is
projected once and broadcasting adds it.

Why: the B×S×2D tensor is never written, h is projected once instead of S times, and ``W₂h̄`` no longer depends on
the step, so that hoist_keys can take it out of the loop.

Before: MatMul(Concat(Expand(h), H), W)
After: Add(MatMul(h, W₁), MatMul(H, W₂))

Safe when: the concatenation is along the last axis with known widths, W is constant, and the unexpanded operands
broadcast to the same shape. The two halves of each dot product are added in another order.
Source: Luong et al. 2015, section 3.1, score "concat"; Bahdanau et al. 2015, appendix A.1.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import attr, broadcast, const, covers, dims, expanded, made_by

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build


class SplitConcatScore(GraphRule):
    """MatMul over a concatenation with an expanded part, as a sum of MatMuls."""

    name = "split_concat_score"
    exactness = ALLCLOSE
    anchors = ("MatMul",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the MatMul."""
        concat = made_by(node.inputs[0], "Concat")
        if concat is None:
            return None
        size, weight = len(dims(concat.outputs[0]) or ()), const(node.inputs[1])
        if weight is None or weight.ndim != 2:
            return miss("its weights are not a constant matrix", node, 1)
        if size < 3 or attr(concat, "axis") not in (-1, size - 1):
            return miss(
                f"it joins axis {attr(concat, 'axis')} of a tensor of rank {size}, not the last of three", concat, 1
            )
        expands = [made_by(v, "Expand", "Tile") for v in concat.inputs]
        if not any(expands):
            return miss("none of its inputs is expanded, so splitting saves nothing", concat, 2)
        raw = [v if e is None else e.inputs[0] for v, e in zip(concat.inputs, expands, strict=True)]
        widths = [(dims(v) or (None,))[-1] for v in raw]
        if not all(isinstance(width, int) for width in widths):
            return miss(f"the widths of its inputs are not all known: {widths}", concat, 2)
        full = [dims(v) if e is None else expanded(e) for v, e in zip(concat.inputs, expands, strict=True)]
        leading = [shape[:-1] if shape else None for shape in map(dims, raw)]
        if not covers(leading, broadcast([shape[:-1] if shape else None for shape in full])):
            return miss(f"{leading} are not proven to broadcast to what was concatenated", concat, 3)
        nodes = (*(e for e in expands if e is not None), concat, node)
        return Match(node, nodes, {"raw": raw, "widths": widths})

    def rewrite(self, match: Match, build: Build) -> None:
        """One MatMul a part, summed."""
        weight, old = match.anchor.inputs[1], match.anchor.outputs[0]
        array = const(weight)
        assert weight is not None and array is not None  # noqa: PT018 (what match has proven)
        total, row = None, 0
        for number, (part, width) in enumerate(zip(match.parts["raw"], match.parts["widths"], strict=True)):
            rows = build.const(f"{weight.name}_part{number}", array[row : row + width])
            shape = (*(dims(part) or ())[:-1], array.shape[1])
            product = build.op("MatMul", part, rows, shape=shape)
            summed = broadcast([dims(total), shape]) if total is not None else shape
            total = product if total is None else build.op("Add", total, product, shape=summed)
            row += width
        assert total is not None
        build.replace(old, total)

    def examples(self) -> list[Program]:
        """[h; H] with a computed Expand, and [H; h] with Tile to a known length."""
        return as_programs(
            graph(
                """(float[batch,6] h, float[batch,s,4] memory) => (float[batch,s,5] y) {
                    n = Shape <start = 1, end = 2> (memory)
                    size = Concat <axis = 0> (one, n, one)
                    q = Unsqueeze(h, one)
                    wide = Expand(q, size)
                    both = Concat <axis = 2> (wide, memory)
                    y = MatMul(both, weight) }""",
                one=i64(1),
                weight=(10, 5),
            ),
            graph(
                """(float[batch,1,6] h, float[batch,7,4] memory) => (float[batch,7,5] y) {
                    wide = Tile(h, times)
                    both = Concat <axis = -1> (memory, wide)
                    y = MatMul(both, weight) }""",
                times=i64(1, 7, 1),
                weight=(10, 5),
            ),
        )

    def near_misses(self) -> list[Program]:
        """Nothing expanded; joined along the positions; everything expanded; weights that are fed."""
        return as_programs(
            graph(
                """(float[batch,s,6] h, float[batch,s,4] memory) => (float[batch,s,5] y) {
                    both = Concat <axis = 2> (h, memory)
                    y = MatMul(both, weight) }""",
                weight=(10, 5),
            ),
            graph(
                """(float[batch,1,4] h, float[batch,7,4] memory) => (float[batch,14,5] y) {
                    wide = Tile(h, times)
                    both = Concat <axis = 1> (memory, wide)
                    y = MatMul(both, weight) }""",
                times=i64(1, 7, 1),
                weight=(4, 5),
            ),
            graph(
                """(float[batch,1,6] h, float[batch,1,4] g) => (float[batch,7,5] y) {
                    wide = Tile(h, times)
                    wider = Tile(g, times)
                    both = Concat <axis = 2> (wide, wider)
                    y = MatMul(both, weight) }""",
                times=i64(1, 7, 1),
                weight=(10, 5),
            ),
            graph(
                """(float[batch,1,6] h, float[batch,7,4] memory, float[10,5] weight) => (float[batch,7,5] y) {
                    wide = Tile(h, times)
                    both = Concat <axis = 2> (wide, memory)
                    y = MatMul(both, weight) }""",
                times=i64(1, 7, 1),
            ),
        )


RULE = SplitConcatScore()
