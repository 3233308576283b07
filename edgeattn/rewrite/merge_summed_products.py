"""merge_summed_products: products of several values, summed, become one product of the values side by side.

What: ``x·W + h·R + b`` becomes ``[x; h]·[W; R] + b``; the terms may stand anywhere in a sum, and biases in it go along.

Why: an LSTM or GRU cell is exported as a Gemm of its input and a Gemm of its state. In INT8 a decoder step is so short
that launching and quantizing count: one Gemm on [x; h] quantizes once and adds in INT32. A Luong step of 2×512 in
static INT8 took 1.2 times as long before (ONNX Runtime). With many rows the copy may cost more, hence measured.

Before: Add(Gemm(x, W, b), Gemm(h, R))
After:  Gemm(Concat(x, h), [W; R], b)

    x ─ Gemm W ─┐              x ─┐
                Add     ⇒         Concat ─ Gemm [W; R]
    h ─ Gemm R ─┘              h ─┘

Safe when: weights and biases are constants of one type, nobody else reads the products, and the values are proven to
have the same leading dimensions, so that nothing is broadcast. Equal up to the order of sums.
Source: Hochreiter and Schmidhuber 1997 in the form of Zaremba et al. 2014, equation 4: one affine map of [x; h].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.rewrite._product import Product, pieces, plain
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph
from edgeattn.rewrite._view import broadcast, const, dims, made_by, used_once

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build


@dataclass(frozen=True)
class _Sum:
    """A sum without its brackets.

    Attributes:
        adds: its nodes, the last first. products: terms that are products nobody else reads, with their nodes.
        biases: constant rows. others: the remaining terms.
    """

    adds: list[ir.Node]
    products: list[Product]
    biases: list[np.ndarray[Any, Any]]
    others: list[ir.Value]


class MergeSummedProducts(GraphRule):
    """Summed products, one product."""

    name = "merge_summed_products"
    exactness = ALLCLOSE
    measured = True
    anchors = ("Add",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the last addition of the sum."""
        reader = node.outputs[0].consumers()[0] if used_once(node.outputs[0]) else None
        if reader is not None and reader.op_type == "Add" and dims(reader.outputs[0]) == dims(node.outputs[0]):
            return None  # the same sum goes on
        found = _terms(node)
        if len(found.products) < 2:
            return None
        leads = {(dims(p.source) or (None,))[:-1] for p in found.products}
        if len(leads) > 1 or None in next(iter(leads)):
            return miss(f"what it multiplies is not proven to have the same rows: {sorted(map(str, leads))}", node, 3)
        if len({p.matrix.dtype for p in found.products}) > 1 or len({p.width for p in found.products}) > 1:
            return miss("the products differ in type or width", node, 2)
        if len({p.source for p in found.products}) < len(found.products):
            return miss("it multiplies one value twice", node, 2)
        return Match(node, (*found.adds, *(p.node for p in found.products)), {"sum": found})

    def rewrite(self, match: Match, build: Build) -> None:
        """One Concat, one Gemm (MatMul and Add above two dimensions), and what else the sum held."""
        found: _Sum = match.parts["sum"]
        first = found.products[0]
        lead = (dims(first.source) or ())[:-1]
        values = [piece for p in found.products for piece in pieces(p.source)]
        matrix = np.concatenate([p.matrix for p in found.products])
        joined = build.op("Concat", *values, shape=(*lead, len(matrix)), axis=len(lead))
        rows = [*found.biases, *(p.bias for p in found.products if p.bias is not None)]
        stem = "_".join(str(weight.name) for p in found.products if (weight := p.node.inputs[1]) is not None)
        weight = build.const(stem, matrix)
        bias = [build.const(f"{stem}_bias", np.sum(rows, 0, dtype=matrix.dtype))] if rows else []
        shape = (*lead, first.width)
        if len(lead) == 1:
            total = build.op("Gemm", joined, weight, *bias, shape=shape)
        else:
            total = build.op("MatMul", joined, weight, shape=shape)
            total = build.op("Add", total, *bias, shape=shape) if bias else total
        for other in found.others:
            total = build.op("Add", total, other, shape=broadcast([dims(total), dims(other)]))
        build.replace(match.anchor.outputs[0], total)

    def examples(self) -> list[Program]:
        """Two Gemms; one with a bias; MatMuls with a bias between; three, one of a Concat; another term in the sum."""
        both = "(float[batch,5] x, float[batch,4] h) => (float[batch,6] y)"
        three = "(float[batch,3,5] x, float[batch,3,4] h) => (float[batch,3,6] y)"
        return as_programs(
            graph(f"{both} {{ a = Gemm(x, w)  b = Gemm(h, r)  y = Add(a, b) }}", w=(5, 6), r=(4, 6)),
            graph(
                f"{both} {{ a = Gemm <transB = 1> (x, w, c)  b = Gemm(h, r, d)  y = Add(a, b) }}",
                w=(6, 5), r=(4, 6), c=(6,), d=(6,),
            ),
            graph(
                f"{three} {{ a = MatMul(x, w)  s = Add(c, a)  b = MatMul(h, r)  y = Add(s, b) }}",
                w=(5, 6), r=(4, 6), c=(6,),
            ),
            graph(
                f"""{both} {{ j = Concat <axis = -1> (x, h)  u = Tanh(h)  a = Gemm(j, w, c)  b = Gemm(h, r)
                    s = Add(a, b)  e = MatMul(u, q)  y = Add(e, s) }}""",
                w=(9, 6), r=(4, 6), q=(4, 6), c=(6,),
            ),
            graph(
                "(float[batch,5] x, float[batch,4] h, float[batch,6] z) => (float[batch,6] y) "
                "{ a = MatMul(x, w)  s = Add(z, a)  t = Add(s, c)  b = MatMul(h, r)  y = Add(t, b) }",
                w=(5, 6), r=(4, 6), c=(6,),
            ),
        )  # fmt: skip

    def near_misses(self) -> list[Program]:
        """Rows that are broadcast; rows of unknown number; one value twice."""
        return as_programs(
            graph(
                "(float[1,5] x, float[batch,4] h) => (float[batch,6] y) "
                "{ a = MatMul(x, w)  b = MatMul(h, r)  y = Add(a, b) }",
                w=(5, 6), r=(4, 6),
            ),
            graph(
                "(float[batch,5] x, float[rows,4] h) => (float[n,6] y) "
                "{ a = MatMul(x, w)  b = MatMul(h, r)  y = Add(a, b) }",
                w=(5, 6), r=(4, 6),
            ),
            graph(
                "(float[batch,5] x) => (float[batch,6] y) { a = MatMul(x, w)  b = MatMul(x, r)  y = Add(a, b) }",
                w=(5, 6), r=(5, 6),
            ),
        )  # fmt: skip

    def workload(self) -> Program:
        """The gates of an LSTM of width 512 at batch 1."""
        return as_programs(
            graph(
                "(float[1,512] x, float[1,512] h) => (float[1,2048] y) "
                "{ a = Gemm(x, w, c)  b = Gemm(h, r)  y = Add(a, b) }",
                w=(512, 2048),
                r=(512, 2048),
                c=(2048,),
            )
        )[0]


def _terms(last: ir.Node) -> _Sum:
    """The terms of the sum that ends in ``last``; additions inside it that others read are terms."""
    found = _Sum([], [], [], [])
    shape, queue = dims(last.outputs[0]), [last]
    while queue:
        add = queue.pop()
        found.adds.append(add)
        for value in add.inputs:
            before = made_by(value, "Add", "Gemm", "MatMul") if value is not None and used_once(value) else None
            row = const(value)
            if before is not None and before.op_type == "Add" and dims(value) == shape:
                queue.append(before)
            elif before is not None and before.op_type != "Add" and (made := plain(before)):
                found.products.append(made)
            elif row is not None and row.ndim == 1 and shape and row.shape == (shape[-1],):
                found.biases.append(row)
            elif value is not None:
                found.others.append(value)
    return found


RULE = MergeSummedProducts()
