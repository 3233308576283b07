"""lower_vector_product: a product with one column, as Mul and ReduceSum.

What: MatMul of ``(B, S, D)`` with a column, ``(D, 1)`` or ``(B, D, 1)``, becomes a Mul with the row and a ReduceSum
over the last axis: vᵀ tanh(·) of additive attention, and Luong's score.

Why: some engines run a matrix product with one column by code that is made for wide ones, and quantizers try to make
INT8 of it, where a row costs less to read than to convert. On others MatMul is faster: the rule stays only where it was
measured to help.

Before: MatMul(x, v)               x (B, S, D), v (D, 1)
After: ReduceSum(Mul(x, vᵀ), axis -1, keepdims)

Safe when: the left side has rank 2 or 3 and floats, and the right side has the last dimension 1. Sums are added in
another order.
Source: definition of the matrix product; Bahdanau et al. 2015, appendix A.1.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeattn.rewrite import _axes
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import broadcast, const, dims

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build


class LowerVectorProduct(GraphRule):
    """MatMul with one column as Mul and ReduceSum."""

    name = "lower_vector_product"
    exactness = ALLCLOSE
    anchors = ("MatMul",)
    measured = True

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the MatMul."""
        left, right = dims(node.inputs[0]), dims(node.inputs[1])
        if right is None or len(right) < 2 or right[-1] != 1:
            return None
        if left is None or not 2 <= len(left) <= 3 or len(right) > len(left):
            return miss(f"it multiplies {left} and {right}; expected rank 2 or 3, the column's not larger", node, 1)
        dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
        if dtype is None or not dtype.is_floating_point():
            return miss(f"its operands are {dtype}, no floats", node, 1)
        if left[-2] == 1:
            return miss("there is one row only", node, 2)
        return Match(node, (node,), {"opset": view.opset})

    def rewrite(self, match: Match, build: Build) -> None:
        """Rows times the row, summed."""
        node, opset = match.anchor, match.parts["opset"]
        x, column = node.inputs
        assert x is not None and column is not None  # noqa: PT018 (MatMul has two operands)
        row = _row(build, column, opset)
        multiplied = build.op("Mul", x, row, shape=broadcast([dims(x), dims(row)]))
        last = len(dims(x) or ()) - 1
        build.replace(node.outputs[0], _axes.reduce(build, "ReduceSum", multiplied, last, opset, 1))

    def examples(self) -> list[Program]:
        """v as a constant; a query's column, computed or fed; rank 2; an older opset."""
        head = "(float[batch,s,4] x, float"
        tail = "=> (float[batch,s,1] y) {"
        return as_programs(
            graph(f"(float[batch,s,4] x) {tail} y = MatMul(x, v) }}", v=(4, 1)),
            graph(f"{head}[batch,4] q) {tail} c = Unsqueeze(q, two)  y = MatMul(x, c) }}", two=i64(2)),
            graph(f"{head}[batch,4,1] c) {tail} y = MatMul(x, c) }}", opset=11),
            graph("(float[s,4] x) => (float[s,1] y) { y = MatMul(x, v) }", v=(4, 1)),
        )

    def near_misses(self) -> list[Program]:
        """One row only; more axes than attention has; a column of more axes than the rows; integers."""
        return as_programs(
            graph("(float[batch,1,4] x) => (float[batch,1,1] y) { y = MatMul(x, v) }", v=(4, 1)),
            graph("(float[2,batch,s,4] x) => (float[2,batch,s,1] y) { y = MatMul(x, v) }", v=(4, 1)),
            graph("(float[s,4] x, float[2,4,1] v) => (float[2,s,1] y) { y = MatMul(x, v) }"),
            graph("(int64[s,4] x, int64[4,1] v) => (int64[s,1] y) { y = MatMul(x, v) }"),
        )

    def workload(self) -> Program:
        """vᵀ over 200 positions of width 512."""
        return as_programs(graph("(float[1,200,512] x) => (float[1,200,1] y) { y = MatMul(x, v) }", v=(512, 1)))[0]


def _row(build: Build, column: ir.Value, opset: int) -> ir.Value:
    """The column lying down: a constant here and now, what Unsqueeze stood up as it was."""
    array = const(column)
    rank = len(dims(column) or ())
    if array is not None:
        return build.const(f"{column.name}_row", np.ascontiguousarray(np.swapaxes(array, -1, -2)))
    source, laid = _axes.peeled(column)
    if laid == (0, 1, None) and len(dims(source) or ()) == 2:
        return _axes.unsqueeze(build, source, [1], opset)
    return _axes.transpose(build, column, (*range(rank - 2), rank - 1, rank - 2))


RULE = LowerVectorProduct()
