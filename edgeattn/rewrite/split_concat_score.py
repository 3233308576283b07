"""split_concat_score: additive attention without the concatenated tensor.

What: ``W[h; h̄]`` over every source position, written as Expand or Tile, Concat and a product, becomes ``W₁h + W₂h̄``,
where h is projected once and broadcasting adds it. The product may be a MatMul from either side, a Gemm over flattened
positions or a 1×1 Conv; batch, positions and channels may lie in any order, with Transposes between.

Why: the B×S×2D tensor is never written, h is projected once instead of S times, and ``W₂h̄`` no longer depends on
the step, so that hoist_keys can take it out of the loop.

Before: MatMul(Concat(Expand(h), H), W)
After: Add(MatMul(h, W₁), MatMul(H, W₂))

    h ─ Expand ─┐                       h ─ MatMul W₁ ─┐
                Concat ─ MatMul W   ⇒                  Add
    H ──────────┘                       H ─ MatMul W₂ ─┘

Safe when: the concatenation is along the axis that the product sums over, with known widths; W is constant; and the
unexpanded operands broadcast to the shape that was concatenated: proven dimension by dimension, or at a series of
concrete sizes. The two halves of each dot product are added in another order.
Source: Luong et al. 2015, section 3.1, score "concat"; Bahdanau et al. 2015, appendix A.1.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.rewrite import _axes
from edgeattn.rewrite._product import Product, product
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import attr, broadcast, covers, dims, expanded, made_by

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build
    from edgeattn.rewrite._sizes import Sample
    from edgeattn.rewrite._view import Dim

ENOUGH = 8  # sampled sizes; fewer say too little


@dataclass(frozen=True)
class Part:
    """One operand of the concatenation: the value before it was expanded, how it lies, and what is passed over.

    Attributes:
        value: the unexpanded source. grow: leading dimensions of size 1 that it lacks.
        perm: the order its dimensions take in the concatenation, after growing.
        nodes: what is between; empty where nothing is expanded.
    """

    value: ir.Value
    grow: int
    perm: tuple[int, ...]
    nodes: tuple[ir.Node, ...]

    def laid(self, shape: tuple[Dim, ...]) -> tuple[Dim, ...]:
        """A shape of ``value`` as it lies in the concatenation."""
        grown = (1,) * self.grow + shape
        return tuple(grown[axis] for axis in self.perm)


class SplitConcatScore(GraphRule):
    """A product over a concatenation with an expanded part, as a sum of products."""

    name = "split_concat_score"
    exactness = ALLCLOSE
    anchors = ("MatMul", "Gemm", "Conv")

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the product."""
        found = product(node)
        if found is None:
            return _fed_weights(node)
        if isinstance(found, Miss):
            return found if _concat_behind(node) else None
        concat = made_by(found.source, "Concat")
        if concat is None:
            return None
        shape = dims(concat.outputs[0])
        if shape is None or len(shape) < 3:
            return miss(f"it joins tensors of the shape {shape}, where nothing is repeated over positions", concat, 1)
        axis = attr(concat, "axis") % len(shape)
        if axis != found.channel:
            return miss(f"it joins axis {axis}, but the product sums over axis {found.channel}", concat, 1)
        parts = [_part(v, len(shape)) for v in concat.inputs]
        if not any(p.nodes for p in parts):
            return miss("none of its inputs is expanded, so splitting saves nothing", concat, 2)
        widths = [p.laid(dims(p.value) or ())[axis] if dims(p.value) else None for p in parts]
        if sum(w if isinstance(w, int) else 0 for w in widths) != found.depth:  # equal: none is repeated along it
            return miss(f"the widths of its inputs are {widths}, which do not make up {found.depth}", concat, 2)
        if not _repeats_only(parts, concat, axis) and not _repeats_at(parts, concat, axis, view.samples()):
            leading = [_without(p.laid(dims(p.value) or ()), axis) for p in parts]
            return miss(f"{leading} are not proven to broadcast to what was concatenated", concat, 3)
        nodes = tuple(dict.fromkeys([*(n for p in parts for n in p.nodes), concat, *found.nodes, node]))
        return Match(node, nodes, {"parts": parts, "widths": widths, "product": found, "opset": view.opset})

    def rewrite(self, match: Match, build: Build) -> None:
        """One product a part, summed; the bias goes to the first expanded part, which is the smallest."""
        found: Product = match.parts["product"]
        total, row = None, 0
        small = next(n for n, p in enumerate(match.parts["parts"]) if p.nodes)
        for number, (part, width) in enumerate(zip(match.parts["parts"], match.parts["widths"], strict=True)):
            laid = _axes.unsqueeze(build, part.value, range(part.grow), match.parts["opset"])
            laid = _axes.transpose(build, laid, part.perm)
            laid = _axes.transpose(build, laid, found.perm)
            one = found.on(build, laid, slice(row, row + width), f"part{number}", biased=number == small)
            total = one if total is None else build.op("Add", total, one, shape=broadcast([dims(total), dims(one)]))
            row += width
        assert total is not None
        if found.flat:
            total = build.op("Reshape", total, build.const("rows", np.array([-1, found.width], np.int64)), shape=None)
        build.replace(match.anchor.outputs[0], total)

    def examples(self) -> list[Program]:
        """[h; H] with a computed Expand, and [H; h] with Tile to a known length; transposed; by Conv; by Gemm."""
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
            graph(
                """(float[1,batch,6] h, float[batch,s,4] memory) => (float[batch,s,5] y) {
                    n = Shape <start = 1, end = 2> (memory)
                    times = Concat <axis = 0> (n, one, one)
                    wide = Tile(h, times)
                    turned = Transpose <perm = [1, 0, 2]> (wide)
                    both = Concat <axis = 2> (turned, memory)
                    y = MatMul(both, weight) }""",
                one=i64(1),
                weight=(10, 5),
            ),
            graph(
                """(float[batch,6,1] h, float[batch,4,7] memory) => (float[batch,5,7] y) {
                    wide = Expand(h, size)
                    both = Concat <axis = 1> (wide, memory)
                    y = Conv <kernel_shape = [1]> (both, weight, bias) }""",
                size=i64(1, 1, 7),
                weight=(5, 10, 1),
                bias=(5,),
            ),
            graph(
                """(float[batch,1,6] h, float[batch,7,4] memory) => (float[rows,5] y) {
                    wide = Expand(h, size)
                    both = Concat <axis = 2> (wide, memory)
                    flat = Reshape(both, rows)
                    y = Gemm <transB = 1> (flat, weight, bias) }""",
                size=i64(1, 7, 1),
                rows=i64(-1, 10),
                weight=(5, 10),
                bias=(5,),
            ),
            graph(
                """(float[batch,1,6] h, float[batch,7,4] memory) => (float[batch,5,7] y) {
                    wide = Expand(h, size)
                    both = Concat <axis = 2> (wide, memory)
                    turned = Transpose <perm = [0, 2, 1]> (both)
                    y = MatMul(weight, turned) }""",
                size=i64(1, 7, 1),
                weight=(5, 10),
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

    def workload(self) -> Program:
        """Luong's concat score at width 512 over 200 positions."""
        return as_programs(
            graph(
                """(float[1,1,512] h, float[1,200,512] memory) => (float[1,200,512] y) {
                    wide = Expand(h, size)
                    both = Concat <axis = 2> (wide, memory)
                    y = MatMul(both, weight) }""",
                size=i64(1, 200, 1),
                weight=(1024, 512),
            )
        )[0]


def _fed_weights(node: ir.Node) -> Miss | None:
    """A concatenation is multiplied, but by nothing constant."""
    return miss("its weights are not a constant matrix", node, 1) if _concat_behind(node) else None


def _concat_behind(node: ir.Node) -> bool:
    return any(made_by(v, "Concat") for v in node.inputs[:2])


def _part(value: ir.Value | None, rank: int) -> Part:
    """What an operand was before Expand and Tile, seen through the Transposes between."""
    assert value is not None
    best = Part(value, 0, tuple(range(rank)), ())
    perm, passed = best.perm, []
    while (node := made_by(value, "Expand", "Tile", "Transpose", "Identity")) is not None:
        value = node.inputs[0]
        size = dims(value)
        if value is None or size is None:
            break
        passed.append(node)
        if node.op_type == "Transpose":
            order = attr(node, "perm", list(reversed(range(rank))))
            perm = tuple(order[axis] for axis in perm)
        elif node.op_type in ("Expand", "Tile"):
            best = Part(value, rank - len(size), perm, tuple(passed))
            if len(size) < rank:
                break
    return best


def _without(shape: tuple[Dim, ...], axis: int) -> tuple[Dim, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _repeats_only(parts: list[Part], concat: ir.Node, axis: int) -> bool:
    """Whether the symbols of the shapes prove that only dimensions of size 1 were repeated."""
    makers = [(v, made_by(v, "Expand", "Tile")) for v in concat.inputs]
    full = [dims(v) if node is None else expanded(node) for v, node in makers]
    wanted = broadcast([_without(shape, axis) if shape else None for shape in full])
    return covers([_without(p.laid(dims(p.value) or ()), axis) for p in parts], wanted)


def _repeats_at(parts: list[Part], concat: ir.Node, axis: int, samples: list[Sample]) -> bool:
    """Whether they did at every sampled size, of which there must be enough."""
    seen = 0
    for shapes in samples:
        raw = [shapes.get(p.value.name or "") for p in parts]
        whole = shapes.get(concat.outputs[0].name or "")
        if whole is None or any(shape is None for shape in raw):
            continue
        laid = [_without(p.laid(shape), axis) for p, shape in zip(parts, raw, strict=True) if shape is not None]
        if not covers(laid, _without(whole, axis)):
            return False
        seen += 1
    return seen >= ENOUGH


RULE = SplitConcatScore()
