"""canonicalise_key_transpose: heads flattened, turned and split again are one Transpose.

What: a Reshape, a Transpose and a Reshape that together only change the order of axes become that Transpose; where they
split an axis too, one Reshape that splits it and the Transpose. PyTorch's exporter turns keys so, ``(B, H, S, d)`` to
``(B·H, S, d)``, turned, and back to ``(B, H, d, S)``; ``nn.MultiheadAttention`` makes all its heads so.

Why: the Reshape that goes brings a chain of Shape, Slice and Concat along, and hides from every engine's attention
fusion that the second operand of the product is just kᵀ.

Before: k → Reshape(-1, S, d) → Transpose(0, 2, 1) → Reshape(B, H, d, S)        After: k → Transpose(0, 1, 3, 2)

Safe when: the operators between are read nowhere else, and the same order of axes gives the same elements at a series
of concrete sizes of the input, at which every index is compared. Bit-exact.
Source: onnxscript's decomposition of scaled_dot_product_attention; torch.nn.functional.multi_head_attention_forward.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.program import Program
from edgeattn.rewrite._rule import BIT_EXACT, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import attr, const, dims, made_by, rank, used_once

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build
    from edgeattn.rewrite._sizes import Sample

ENOUGH = 8  # sampled sizes; fewer say too little
MOST_ELEMENTS = 1 << 18  # of a tensor whose every index is compared
MOST_RANK = 5
Shape = tuple[int, ...]


class CanonicaliseKeyTranspose(GraphRule):
    """Reshape, Transpose, Reshape as one Transpose, or a Reshape and a Transpose."""

    name = "canonicalise_key_transpose"
    exactness = BIT_EXACT
    anchors = ("Reshape",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the last Reshape."""
        turn = made_by(node.inputs[0], "Transpose")
        first = made_by(turn.inputs[0], "Reshape", "Flatten", "Squeeze", "Unsqueeze") if turn is not None else None
        if turn is None or first is None or first.inputs[0] is None:
            return None
        for inner in (turn, first):
            if not used_once(inner.outputs[0]):
                return miss("its value is read elsewhere too", inner, 1)
        x, size = first.inputs[0], rank(node.outputs[0])
        if size is None or size > MOST_RANK:
            return miss(f"what it gives has rank {size}", node, 1)
        values = [x, first.outputs[0], node.outputs[0]]
        sampled = [_shapes(values, sample) for sample in view.samples()]
        known = sorted((s for s in sampled if s is not None), key=lambda s: np.prod(s[0]))
        checked = [s for s in known[:ENOUGH] if np.prod(s[0]) <= MOST_ELEMENTS]
        if len(checked) < ENOUGH:
            return miss(f"its shapes are known at {len(checked)} sizes only", node, 2)
        perm = tuple(attr(turn, "perm") or reversed(range(len(checked[0][1]))))
        orders = list(permutations(range(size)))
        for shapes in checked:  # the smallest first: it rules most orders out
            orders = [order for order in orders if _in_order(order, perm, *shapes)]
        if not orders:
            return miss("together they do more than split axes and change their order", node, 3)
        same = all(tuple(result[axis] for axis in orders[0]) == given for given, _, result in checked)
        target = const(node.inputs[1])
        if not same and not attr(node, "allowzero", 0) and (target is None or (target == 0).any()):
            return miss("its target may copy a dimension of what lies before it", node, 3)
        return Match(node, (first, turn, node), {"x": x, "order": orders[0], "same": same})

    def rewrite(self, match: Match, build: Build) -> None:
        """A Reshape where an axis is split, and a Transpose where the order changes."""
        node, x, order = match.anchor, match.parts["x"], match.parts["order"]
        old = node.outputs[0]
        after = dims(old)
        before = None if after is None else [after[axis] for axis in order]
        if not match.parts["same"]:
            x = build.like(node, x, _picked(node.inputs[1], order, build), shape=before)
        if order != tuple(sorted(order)) or match.parts["same"]:
            x = build.op("Transpose", x, shape=after, perm=[order.index(axis) for axis in range(len(order))])
        build.replace(old, x)

    def examples(self) -> list[Program]:
        """Keys as PyTorch turns them, batch and length dynamic; heads as nn.MultiheadAttention makes them."""
        return as_programs(
            graph(
                """(float[batch,2,s,4] k) => (float[batch,2,4,s] y) {
                    lengths = Shape <start = 2, end = 3> (k)
                    flat = Concat <axis = 0> (minus, lengths, four)
                    a = Reshape(k, flat)
                    b = Transpose <perm = [0, 2, 1]> (a)
                    lead = Shape <start = 0, end = 2> (k)
                    back = Concat <axis = 0> (lead, four, lengths)
                    y = Reshape(b, back) }""",
                minus=i64(-1),
                four=i64(4),
            ),
            graph(
                """(float[s,batch,2,4] x) => (float[batch,2,s,4] y) {
                    lengths = Shape <start = 0, end = 1> (x)
                    flat = Concat <axis = 0> (lengths, minus, four)
                    a = Reshape(x, flat)
                    b = Transpose <perm = [1, 0, 2]> (a)
                    n = Shape <start = 1, end = 2> (x)
                    back = Concat <axis = 0> (n, two, lengths, four)
                    y = Reshape(b, back) }""",
                minus=i64(-1),
                two=i64(2),
                four=i64(4),
            ),
            graph(
                """(float[s,batch,8] x) => (float[batch,2,s,4] y) {
                    lengths = Shape <start = 0, end = 1> (x)
                    flat = Concat <axis = 0> (lengths, minus, four)
                    a = Reshape(x, flat)
                    b = Transpose <perm = [1, 0, 2]> (a)
                    n = Shape <start = 1, end = 2> (x)
                    back = Concat <axis = 0> (n, two, lengths, four)
                    y = Reshape <allowzero = 1> (b, back) }""",
                minus=i64(-1),
                two=i64(2),
                four=i64(4),
            ),
        )

    def near_misses(self) -> list[Program]:
        """A head taken apart another way, a value read in between, sizes that are unknown."""
        turn = "b = Transpose <perm = [0, 2, 1]> (a)"
        head = "(float[batch,2,6,4] k) => (float[batch,4,2,6] y"
        return as_programs(
            graph(
                f"(float[batch,2,6,4] k) => (float[batch,2,6,4] y) {{ a = Reshape(k, f)  {turn}  y = Reshape(b, t) }}",
                f=i64(-1, 6, 4),
                t=i64(-1, 2, 6, 4),
            ),
            graph(
                f"{head}, float[batch,4,12] b) {{ a = Reshape(k, f)  {turn}  y = Reshape(b, t) }}",
                f=i64(-1, 12, 4),
                t=i64(-1, 4, 2, 6),
            ),
            graph(
                f"""(float[batch,2,6,4] k, int64[4] t) => (float[p,q,r,z] y) {{
                    a = Reshape(k, f)  {turn} y = Reshape(b, t) }}""",
                f=i64(-1, 6, 4),
            ),
        )

    def workload(self) -> Program:
        """12 heads of 64 at 128 positions."""
        return Program({"main": _keys()})


def _keys() -> onnx.ModelProto:
    return graph(
        """(float[1,12,128,64] k) => (float[1,12,64,128] y) {
            a = Reshape(k, flat)
            b = Transpose <perm = [0, 2, 1]> (a)
            y = Reshape(b, back) }""",
        flat=i64(-1, 128, 64),
        back=i64(1, 12, 64, 128),
    )


def _shapes(values: list[ir.Value], shapes: Sample) -> tuple[Shape, ...] | None:
    """The values' shapes; None where one is not known, or the graph is not defined at this size and they disagree."""
    found = [shapes.get(v.name or "") for v in values]
    known = tuple(s for s in found if s is not None)
    return known if len(known) == len(found) and len({int(np.prod(s)) for s in known}) == 1 else None


def _in_order(order: Shape, perm: Shape, x: Shape, flat: Shape, result: Shape) -> bool:
    """Whether what the three operators give, with its axes in ``order``, has the elements of ``x`` as they lie."""
    index = np.arange(np.prod(x))
    turned = index.reshape(flat).transpose(perm).reshape(result).transpose(order)
    return np.array_equal(turned.reshape(-1), index)


def _picked(target: ir.Value | None, order: Shape, build: Build) -> ir.Value:
    """A Reshape's target with its entries in another order."""
    assert target is not None
    array = const(target)
    if array is not None:
        return build.const("split_sizes", array[list(order)])
    return build.op(
        "Gather", target, build.const("split_order", np.array(order, np.int64)), shape=(len(order),), axis=0
    )


RULE = CanonicaliseKeyTranspose()
