"""fold_embedding: the projection of an embedding is looked up, not computed.

What: ``Gather(E, y)·W + b`` becomes ``Gather(E·W + b, y)``: the table holds the products. Where the embedding is joined
with other values before the projection, as with input feeding, ``[E[y]; h̃]·W`` becomes ``(E·W₁ + b)[y] + h̃·W₂``.

Why: a decoder projects the same few vectors over and over, one matrix-vector product a step; a lookup costs nothing.
The weights of an LSTM or GRU operator take part once lower_recurrent_cell has spelled it out. The rule stays only where
it was measured to be faster: the tables grow, and what is left of a Gemm is a product that OpenVINO did not run in INT8
(RNNsearch: 29 % of the work in INT8 where it was above 65 %).

Before: Gemm(Concat(Gather(E, y), h̃), W, b)
After: Add(Gather(E·W₁ + b, y), MatMul(h̃, W₂))

    y ─ Gather E ─┐                    y ─ Gather E·W₁+b ─┐
                  Concat ─ Gemm W  ⇒                      Add
    h̃ ────────────┘                    h̃ ─ MatMul W₂ ─────┘

Safe when: E, W and b are constant, the lookup is along E's rows, and memory allows: with every projection of the lookup
folded, the tables hold at most 4 times the bytes of what they replace, or 1 MiB, and 16 MiB in any case. An E that
others read stays and is counted. Equal up to the order of sums.
Source: linearity of a lookup, E[y]·W = (E·W)[y]; Luong et al. 2015, section 3.3, for input feeding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.rewrite import _axes
from edgeattn.rewrite._leaves import LAYING, Leaf, laid, leaves_of
from edgeattn.rewrite._product import Product, product
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph
from edgeattn.rewrite._view import attr, broadcast, const, dims, made_by

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build

GROWTH = 4.0  # times the bytes of the embedding and the weights it is multiplied with
SMALL_BYTES = 1 << 20  # below this no growth matters
MOST_BYTES = 16 << 20


class FoldEmbedding(GraphRule):
    """A projection of an embedding, folded into the table."""

    name = "fold_embedding"
    exactness = ALLCLOSE
    anchors = ("MatMul", "Gemm")
    measured = True

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the projection."""
        if not _near(node.inputs[0]):
            return None
        found = product(node)
        if found is None or isinstance(found, Miss):
            return found or miss("its weights are not a constant matrix", node, 1)
        leaves = leaves_of(found.source, 0, ()) if found.form == "right" and not found.flat else []
        lookup = next((leaf for leaf in leaves if _table(leaf.value) is not None), None)
        if lookup is None or found.channel != found.perm[-1] or leaves[-1].rows.stop != found.depth:
            reason = "what it multiplies is not, or not only, an embedding joined with others along the last axis"
            return miss(reason, node, 1)
        gather, table = made_by(lookup.value, "Gather"), _table(lookup.value)
        assert gather is not None and table is not None  # noqa: PT018 (that is what a lookup is)
        width, stays = _demand(gather)
        after = len(table) * width * table.itemsize
        before = table.nbytes + table.shape[1] * width * table.itemsize
        after += table.nbytes if stays else 0
        if after > MOST_BYTES or after > max(GROWTH * before, SMALL_BYTES):
            kept = ", with the embedding that others read," if stays else ""
            reason = f"the folded tables{kept} would take {_mib(after)}, what they replace takes {_mib(before)}"
            allowed = f"allowed are {_mib(MOST_BYTES)} and {GROWTH:g} times as much"
            return miss(f"{reason}; {allowed}", node, 3)
        parts = {"product": found, "leaves": leaves, "lookup": lookup, "opset": view.opset}
        return Match(node, (gather, *lookup.chain, *found.nodes, node), parts)

    def rewrite(self, match: Match, build: Build) -> None:
        """A lookup in the folded table, and a product of what was joined with it."""
        found: Product = match.parts["product"]
        lookup: Leaf = match.parts["lookup"]
        gather, table = made_by(lookup.value, "Gather"), _table(lookup.value)
        assert gather is not None and table is not None  # noqa: PT018 (match has seen them)
        folded = table.astype(np.float64) @ found.matrix[lookup.rows].astype(np.float64)
        folded += 0 if found.bias is None else found.bias
        stem = f"{gather.inputs[0].name if gather.inputs[0] is not None else 'embedding'}_folded"
        shape = (*(dims(lookup.value) or ())[:-1], found.width)
        total = build.op("Gather", build.const(stem, folded.astype(table.dtype)), gather.inputs[1], shape=shape, axis=0)
        total = _axes.transpose(build, laid(build, total, lookup), found.perm)
        rest = [leaf for leaf in match.parts["leaves"] if leaf is not lookup]
        if rest:
            values = [laid(build, leaf.value, leaf) for leaf in rest]
            rows = np.concatenate([found.matrix[leaf.rows] for leaf in rest])
            lead = (dims(values[0]) or ())[:-1]
            axis = len(lead)
            joined = values[0] if len(values) == 1 else build.op("Concat", *values, shape=(*lead, len(rows)), axis=axis)
            joined = _axes.transpose(build, joined, found.perm)
            weight = match.anchor.inputs[1]
            name = f"{weight.name if weight is not None else 'weight'}_rest"
            out = (*(dims(joined) or ())[:-1], found.width)
            other = build.op("MatMul", joined, build.const(name, rows), shape=out)
            total = build.op("Add", total, other, shape=broadcast([dims(total), out]))
        build.replace(match.anchor.outputs[0], total)

    def examples(self) -> list[Program]:
        """Alone by Gemm and MatMul; with input feeding; two readers through one Concat; laid out in between."""
        head = "(int64[batch] token, float[batch,5] feed) => (float[batch,6] y"
        both = "e = Gather(table, token)  x = Concat <axis = 1> (e, feed)"
        e, w, b = (7, 4), (9, 6), (6,)
        return as_programs(
            graph(
                "(int64[batch] token) => (float[batch,6] y) { e = Gather(table, token) y = Gemm(e, w, b) }",
                table=e, w=(4, 6), b=b,
            ),
            graph(
                "(int64[batch,s] token) => (float[batch,s,6] y) { e = Gather(table, token) y = MatMul(e, w) }",
                table=e, w=(4, 6),
            ),
            graph(f"{head}) {{ {both}  y = Gemm <transB = 1> (x, w, b) }}", table=e, w=(6, 9), b=b),
            graph(
                f"{head}, float[batch,3] z) {{ {both}  y = MatMul(x, w)  z = MatMul(x, v) }}", table=e, w=w, v=(9, 3)
            ),
            graph(
                f"""{head}) {{ {both}  u = Unsqueeze(x, one)  t = Transpose <perm = [1, 0, 2]> (u)
                    s = Squeeze(t, zero)  f = Concat <axis = 1> (s, feed)  y = Gemm(f, w, b) }}""",
                table=e, w=(14, 6), b=b, one=np.array([1]), zero=np.array([0]),
            ),
        )  # fmt: skip

    def near_misses(self) -> list[Program]:
        """A table that would be too large; fed weights; a lookup along columns; joined along the rows."""
        return as_programs(
            graph(
                "(int64[batch] token) => (float[batch,900] y) { e = Gather(table, token) y = MatMul(e, w) }",
                table=(4000, 2), w=(2, 900),
            ),
            graph(
                "(int64[n] token, float[4,6] w) => (float[n,6] y) { e = Gather(table, token) y = MatMul(e, w) }",
                table=(7, 4),
            ),
            graph(
                "(int64[4] token) => (float[7,6] y) { e = Gather <axis = 1> (table, token) y = MatMul(e, w) }",
                table=(7, 5), w=(4, 6),
            ),
            graph(
                """(int64[batch] token, float[2,4] feed) => (float[rows,6] y) {
                    e = Gather(table, token)  x = Concat <axis = 0> (e, feed)  y = MatMul(x, w) }""",
                table=(7, 4), w=(4, 6),
            ),
        )  # fmt: skip

    def workload(self) -> Program:
        """Input feeding into the gates of an LSTM of width 256, 64 characters."""
        return as_programs(
            graph(
                """(int64[1] token, float[1,256] feed) => (float[1,1024] y) {
                    e = Gather(table, token)  x = Concat <axis = 1> (e, feed)  y = MatMul(x, w) }""",
                table=(64, 256),
                w=(512, 1024),
            )
        )[0]


def _table(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """The embedding that a value is looked up in, ``(V, m)``."""
    gather = made_by(value, "Gather")
    table = const(gather.inputs[0]) if gather is not None and const(gather.inputs[1]) is None else None
    fits = table is not None and table.ndim == 2 and table.dtype.kind == "f" and not attr(gather, "axis", 0)  # type: ignore[arg-type]
    return table if fits else None


def _near(value: ir.Value | None, depth: int = 8) -> bool:
    """Whether a lookup is joined or laid out into a value."""
    node = made_by(value, "Gather", "Concat", "Reshape", *LAYING)
    if node is None or not depth:
        return False
    if node.op_type == "Gather":
        table = const(node.inputs[0])
        return table is not None and table.dtype.kind == "f"
    return any(_near(v, depth - 1) for v in (node.inputs if node.op_type == "Concat" else node.inputs[:1]))


def _demand(gather: ir.Node) -> tuple[int, bool]:
    """Columns of all projections that read a lookup, and whether anything else reads it or its embedding."""
    width, stays, queue = 0, False, [gather.outputs[0]]
    table = gather.inputs[0]
    stays = table is None or len(table.uses()) > 1
    seen: set[ir.Value] = set()
    while queue:
        value = queue.pop()
        if value in seen:
            continue
        seen.add(value)
        stays = stays or value.is_graph_output()
        for reader in value.consumers():
            found = product(reader) if reader.op_type in ("MatMul", "Gemm") and reader.inputs[0] is value else None
            if isinstance(found, Product) and found.form == "right":
                width += found.width
            elif reader.domain == "" and reader.op_type in ("Concat", *LAYING):
                queue.append(reader.outputs[0])
            else:
                stays = True
    return width, stays


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


RULE = FoldEmbedding()
