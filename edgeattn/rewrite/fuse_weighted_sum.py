"""fuse_weighted_sum: a sum of products is a MatMul.

What: ``ReduceSum(Mul(a, H))`` over one axis, where one side is the same in every row of that axis's partner, becomes a
MatMul: the context Σ_s a_s h̄_s written as ``(a.unsqueeze(2) * H).sum(1)``.

Why: Mul writes a B×S×D tensor that ReduceSum reads again; a MatMul writes none (17 times faster on ONNX Runtime over
200 positions of width 512), quantizers know it, and other rules see the attention in it.

Before: ReduceSum(Mul(a, H), axis 1)            a (B, S, 1), H (B, S, D)
After: MatMul(Transpose(a), H)

    a ─ Mul ─ ReduceSum        ⇒        aᵀ ─ MatMul
    H ──┘                               H ────┘

Safe when: both operands have rank 3, floats, and the weights have size 1 along the axis that stays (axis 2 where axis 1
is summed); batches are the same or 1; the sum runs over exactly one axis. Sums are added in another order.
Source: Luong et al. 2015, section 3 (the context vector); definition of the matrix product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeattn.rewrite import _axes
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import attr, axes, dims, made_by, used_once

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build


class FuseWeightedSum(GraphRule):
    """ReduceSum of a product as MatMul."""

    name = "fuse_weighted_sum"
    exactness = ALLCLOSE
    anchors = ("ReduceSum",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the ReduceSum."""
        multiply = made_by(node.inputs[0], "Mul")
        if multiply is None:
            return None
        shapes = [dims(v) for v in multiply.inputs]
        if any(shape is None or len(shape) != 3 for shape in shapes):
            return miss(f"it multiplies {shapes[0]} and {shapes[1]}; expected two of rank 3", multiply, 1)
        if axes(node) != (1,):
            return miss(f"it sums over the axes {axes(node)}; weights of a memory are summed over axis 1", node, 1)
        if not multiply.inputs[0].dtype or not multiply.inputs[0].dtype.is_floating_point():  # type: ignore[union-attr]
            return miss("its operands are no floats", multiply, 1)
        places = [place for place, shape in enumerate(shapes) if shape is not None and shape[2] == 1]
        if len(places) != 1:
            return miss(f"of {shapes[0]} and {shapes[1]}, not one has one number a position", multiply, 2)
        weights, memory = multiply.inputs[places[0]], multiply.inputs[1 - places[0]]
        ours, theirs = dims(weights) or (), dims(memory) or ()
        if ours[1] != theirs[1] or ours[1] is None:
            return miss(f"{ours[1]} weights are not proven to be as many as {theirs[1]} positions", multiply, 2)
        if not used_once(multiply.outputs[0]):
            return miss("the products are read elsewhere too", multiply, 3)
        return Match(node, (multiply, node), {"weights": weights, "memory": memory, "opset": view.opset})

    def rewrite(self, match: Match, build: Build) -> None:
        """A row of weights times the memory."""
        node, old = match.anchor, match.anchor.outputs[0]
        weights, memory, opset = (match.parts[k] for k in ("weights", "memory", "opset"))
        source, laid = _axes.peeled(weights)
        flat = laid == (0, 1, None) and len(dims(source) or ()) == 2  # what Unsqueeze(2) made: Unsqueeze(1) will do
        row = _axes.unsqueeze(build, source, [1], opset) if flat else _axes.transpose(build, weights, (0, 2, 1))
        total = dims(node.inputs[0]) or (None, None, None)
        made = build.op("MatMul", row, memory, shape=(total[0], 1, total[2]))
        build.replace(old, made if attr(node, "keepdims", 1) else _axes.squeeze(build, made, [1], opset))

    def examples(self) -> list[Program]:
        """Weights with a last axis of 1, or unsqueezed; either way round; axes of both spellings."""
        head = "float[batch,s,4] memory) => (float[batch,4] c)"
        return as_programs(
            graph(
                f"(float[batch,s,1] a, {head} {{ m = Mul(a, memory)  c = ReduceSum <keepdims = 0> (m, one) }}",
                one=i64(1),
            ),
            graph(
                f"""(float[batch,s] a, {head} {{
                    w = Unsqueeze(a, two)  m = Mul(memory, w)  c = ReduceSum <keepdims = 0> (m, one) }}""",
                one=i64(-2),
                two=i64(2),
            ),
            graph(
                """(float[batch,s,1] a, float[1,s,4] memory) => (float[batch,1,4] c) {
                    m = Mul(a, memory)
                    c = ReduceSum <axes = [1]> (m) }""",
                opset=11,
            ),
        )

    def near_misses(self) -> list[Program]:
        """Over the last axis; other axes of size 1; both wide; a repeated weight; products that are read; rank 4."""
        return as_programs(
            _sum("[batch,s,1]", "[batch,s,4]", "[batch,s]", axis=2),
            _sum("[batch,1,4]", "[batch,s,4]", "[batch,4]"),
            _sum("[batch,s,4]", "[batch,s,4]", "[batch,4]"),
            _sum("[batch,1,1]", "[batch,s,4]", "[batch,4]"),
            _sum("[batch,s,1]", "[batch,s,4]", "[batch,4]", also=", float[batch,s,4] m"),
            _sum("[batch,2,s,1]", "[batch,2,s,4]", "[batch,s,4]"),
        )

    def workload(self) -> Program:
        """The context of 200 positions of width 512."""
        return as_programs(_sum("[1,200,1]", "[1,200,512]", "[1,512]"))[0]


def _sum(a: str, memory: str, result: str, axis: int = 1, also: str = "") -> Any:
    return graph(
        f"(float{a} a, float{memory} memory) => (float{result} c{also}) "
        "{ m = Mul(a, memory)  c = ReduceSum <keepdims = 0> (m, axis) }",
        axis=i64(axis),
    )


RULE = FuseWeightedSum()
