"""canonicalise_reshape: a Reshape that works out its target from its own input's size gets a constant one.

What: where every number of the target is a constant, or a dimension of the reshaped value read through Shape, Gather,
Slice, Squeeze, Unsqueeze and Concat, the target becomes a constant: 0 where the dimension stays in its place, -1 for
the one that moved. The chain goes, if nothing else reads it.

Why: ``x.view(b, c, -1)`` and ``y.view(b, c, 1, 1)`` leave four to eight integer operators a call in exported graphs.
Engines run them on every call, shape inference loses the rank behind them, and no later rule sees through them.

Before: x ─┬─────────────────────────────────────────────┬ Reshape ─ (N, C, H·W)
           └ Shape ─ Gather(0) ─ Unsqueeze ─ Concat(C, -1) ┘
After:  x ─ Reshape([0, C, -1]) ─ (N, C, H·W)

Safe when: each dimension is read from the reshaped value itself, or from one whose dimension there is known to be
equal; at most one is left for -1. Bit-exact.
Source: ONNX operator specification of Reshape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_ir as ir

from edgeattn.rewrite._rule import BIT_EXACT, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import attr, const, dims

if TYPE_CHECKING:
    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build

    Entry: TypeAlias = int | tuple[ir.Value, int]  # a number, or a dimension of a value

SAME = ("Identity", "Unsqueeze", "Squeeze", "Reshape", "Cast")  # integers stay what they were, in order
INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)
FURTHEST = 16  # steps from the target to a Shape


class CanonicaliseReshape(GraphRule):
    """A Reshape with a target made of its input's dimensions, with a constant target."""

    name = "canonicalise_reshape"
    exactness = BIT_EXACT
    anchors = ("Reshape",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the Reshape."""
        if len(node.inputs) < 2 or const(node.inputs[1]) is not None:
            return None
        entries = _entries(node.inputs[1])
        if entries is None:
            maker = node.inputs[1].producer() if node.inputs[1] is not None else None
            return miss("the target is not made of numbers and dimensions alone", maker, 0)
        if attr(node, "allowzero", 0):
            return miss("a 0 in its target means a size of zero", node, 1)
        target = [_settled(entry, place, node.inputs[0]) for place, entry in enumerate(entries)]
        if target.count(-1) > 1:
            return miss(f"more than one dimension moves: {target}", node, 2)
        return Match(node, (node,), {"target": target})

    def rewrite(self, match: Match, build: Build) -> None:
        """The same Reshape with the constant."""
        target = build.const("target", np.array(match.parts["target"], np.int64))
        old = match.anchor.outputs[0]
        build.replace(old, build.op("Reshape", match.anchor.inputs[0], target, shape=dims(old)))

    def examples(self) -> list[Program]:
        """A flatten and its way back as TorchScript writes them; Shape with bounds; a batch that moves."""
        return as_programs(
            graph(
                """(float[batch,4,h,w] x) => (float[batch,4,s] y) {
                    size = Shape(x)
                    n = Gather(size, zero)
                    n1 = Unsqueeze(n, axis)
                    target = Concat <axis = 0> (n1, four, rest)
                    y = Reshape(x, target) }""",
                zero=np.int64(0),
                axis=i64(0),
                four=i64(4),
                rest=i64(-1),
            ),
            graph(
                """(float[batch,4] x, float[batch,4,h,w] z) => (float[batch,4,1,1] y) {
                    nc = Shape <start = 0, end = 2> (z)
                    target = Concat <axis = 0> (nc, ones)
                    y = Reshape(x, target) }""",
                ones=i64(1, 1),
            ),
            graph(
                """(float[2,batch,6] x) => (float[batch,12] y) {
                    size = Shape(x)
                    n = Slice(size, one, two)
                    target = Concat <axis = 0> (n, twelve)
                    y = Reshape(x, target) }""",
                one=i64(1),
                two=i64(2),
                twelve=i64(12),
            ),
        )

    def near_misses(self) -> list[Program]:
        """A target that is fed; two dimensions that move; a product of dimensions; zeros that mean zero."""
        whole = "size = Shape(x)  h = Gather(size, two)  w = Gather(size, three)"
        return as_programs(
            graph("(float[batch,4] x, int64[2] t) => (float[p,q] y) { y = Reshape(x, t) }"),
            graph(
                f"""(float[batch,4,h,w] x) => (float[p,q,r] y) {{
                    {whole}
                    target = Concat <axis = 0> (h, w, four)
                    y = Reshape(x, target) }}""",
                two=i64(2),
                three=i64(3),
                four=i64(-1),
            ),
            graph(
                f"""(float[batch,4,h,w] x) => (float[p,q,r] y) {{
                    {whole}
                    hw = Mul(h, w)
                    target = Concat <axis = 0> (less, four, hw)
                    y = Reshape(x, target) }}""",
                two=i64(2),
                three=i64(3),
                four=i64(4),
                less=i64(-1),
            ),
            graph(
                """(float[batch,4] x) => (float[batch,2,2] y) {
                    n = Shape <start = 0, end = 1> (x)
                    target = Concat <axis = 0> (n, two, two)
                    y = Reshape <allowzero = 1> (x, target) }""",
                two=i64(2),
            ),
        )

    def workload(self) -> Program:
        """``x.view(b, c, -1).mean(-1)`` after ResNet-50's first stage."""
        return as_programs(
            graph(
                """(float[1,256,56,56] x) => (float[1,256] y) {
                    size = Shape(x)
                    n = Gather(size, zero)
                    n1 = Unsqueeze(n, axis)
                    target = Concat <axis = 0> (n1, width, rest)
                    rows = Reshape(x, target)
                    y = ReduceMean <keepdims = 0> (rows, last) }""",
                zero=np.int64(0),
                axis=i64(0),
                width=i64(256),
                rest=i64(-1),
                last=i64(-1),
            )
        )[0]


def _settled(entry: Entry, place: int, x: ir.Value | None) -> int:
    """One number of the target: 0 for the dimension that is there anyway, -1 for one that is found by what is left."""
    if isinstance(entry, int):
        return entry
    source, axis = entry
    size, here = dims(source), dims(x)
    found = size[axis] if size is not None else None
    stays = here is not None and place < len(here) and found is not None and here[place] == found
    if (source is x and axis == place) or (stays and not isinstance(found, int)):
        return 0
    return found if isinstance(found, int) else -1


def _entries(value: ir.Value | None, steps: int = FURTHEST) -> list[Entry] | None:
    """What the integers of a small tensor are, in order; None where one is neither a constant nor a dimension."""
    array = const(value)
    if array is not None:
        return [int(n) for n in array.reshape(-1)] if array.dtype.kind == "i" and array.size <= FURTHEST else None
    node = value.producer() if value is not None else None
    if node is None or node.domain != "" or not steps or node.outputs[0].dtype not in (None, *INTEGERS):
        return None
    if node.op_type == "Concat":
        parts = [_entries(part, steps - 1) for part in node.inputs]
        return [e for part in parts for e in part or ()] if None not in parts else None
    if node.op_type == "Shape":
        return _dimensions(node)
    inner = _entries(node.inputs[0], steps - 1) if node.op_type in (*SAME, "Gather", "Slice") else None
    if inner is None or node.op_type in SAME:
        return inner
    return _gathered(node, inner) if node.op_type == "Gather" else _sliced(node, inner)


def _dimensions(shape: ir.Node) -> list[Entry] | None:
    source = shape.inputs[0]
    size = dims(source)
    if source is None or size is None:
        return None
    axes = range(len(size))[attr(shape, "start", 0) : attr(shape, "end")]
    return [(source, axis) for axis in axes]


def _gathered(node: ir.Node, inner: list[Entry]) -> list[Entry] | None:
    index = const(node.inputs[1])
    if index is None or attr(node, "axis", 0) or any(not -len(inner) <= i < len(inner) for i in index.reshape(-1)):
        return None
    return [inner[int(i)] for i in index.reshape(-1)]


def _sliced(node: ir.Node, inner: list[Entry]) -> list[Entry] | None:
    bounds = [const(v) for v in node.inputs[1:]]
    if len(bounds) < 2 or any(b is None or b.size != 1 for b in bounds):
        return None
    start, end, axis, step = [*(int(b.reshape(-1)[0]) for b in bounds if b is not None), *(0, 1)[len(bounds) - 2 :]]
    return inner[slice(start, end, step)] if axis in (0, -1) and step > 0 else None


RULE = CanonicaliseReshape()
