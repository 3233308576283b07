"""split_packed_projection: queries, keys and values out of one matrix, each by its own.

What: a projection whose result is split into (3, heads, width), turned until the 3 stands apart, and then picked from,
becomes three projections, each with its columns of the weight and bias. The rest of the reshaping stays.

Why: ``nn.MultiheadAttention``, timm and nanoGPT pack the three into one matrix. What looks like one product costs a
transposed copy of everything and a copy for every pick, and no engine or rule sees queries, keys and values in it.

Before: MatMul(x, W) + b → Reshape(…, 3, h, d) → Transpose(2, 0, …) → Gather(0), Gather(1), Gather(2)
After:  MatMul(x, W_q) + b_q → Reshape(…, h, d) → Transpose;  likewise with W_k and W_v

Safe when: weight and bias are constants that nobody else reads, nothing else reads the packed values, and the parts
are blocks of columns whose sizes are known. Every column is the same sum: equal up to the engine's blocking.
Source: torch.nn.functional.multi_head_attention_forward; timm's ``Attention``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.program import Program
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._scores import Projection, projection, slice_of
from edgeattn.rewrite._view import attr, axes, const, dims, rank, used_once

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build

NEW = -1  # label of an axis of size 1 that an Unsqueeze added
Chain = tuple[list[int], tuple["ir.Node", ...], "ir.Value"]


@dataclass(frozen=True)
class Pick:
    """One of the packed parts: which, the value that holds it, and the nodes that take it."""

    index: int
    out: ir.Value
    nodes: tuple[ir.Node, ...]


class SplitPackedProjection(GraphRule):
    """A packed projection as several."""

    name = "split_packed_projection"
    exactness = ALLCLOSE
    anchors = ("Reshape",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the Reshape that takes the columns apart."""
        source = projection(node.inputs[0])
        sizes = dims(node.outputs[0])
        if source is None or sizes is None or not used_once(source.out):
            return None
        labels, nodes, packed = _turned(node, len(sizes))
        taken = _picks(packed, labels)
        if taken is None or isinstance(taken, Miss):
            return taken
        label, picks = taken
        columns = _columns(sizes, source.stop - source.start)
        if columns is None or label != len(sizes) - len(columns):
            return miss(f"what is picked are no blocks of columns in {sizes}", node, 2)
        left = [axis for axis in labels if axis != label]
        if NEW in left:
            return miss("an axis that was added stays", node, 2)
        weight = source.matmul.inputs[1]
        if source.out.producer() not in (source.matmul, source.add) or (weight is not None and len(weight.uses()) > 1):
            return miss("its weights are used elsewhere too", source.matmul, 3)
        every = [n for n in (source.matmul, source.add, node, *nodes, *(m for p in picks for m in p.nodes)) if n]
        parts = {"source": source, "picks": picks, "label": label, "columns": columns}
        return Match(node, tuple(every), parts | {"order": [axis - (axis > label) for axis in left]})

    def rewrite(self, match: Match, build: Build) -> None:
        """A projection, a Reshape and, where the order changes, a Transpose for every pick."""
        node, source, columns = match.anchor, match.parts["source"], match.parts["columns"]
        label, order = match.parts["label"], match.parts["order"]
        sizes = dims(node.outputs[0])
        assert sizes is not None
        kept = [size for axis, size in enumerate(sizes) if axis != label]
        target = _without(node.inputs[1], label, len(sizes), build)
        blocks = np.arange(math.prod(columns)).reshape(columns[0], -1)
        for pick in match.parts["picks"]:
            part = _project(source, blocks[pick.index], build)
            attributes: dict[str, Any] = {"allowzero": 1} if attr(node, "allowzero", 0) else {}
            heads = build.op("Reshape", part, target, shape=kept, source=node, **attributes)
            if order != sorted(order):
                heads = build.op("Transpose", heads, shape=[kept[axis] for axis in order], source=node, perm=order)
            build.replace(pick.out, heads)

    def examples(self) -> list[Program]:
        """As timm writes it, with Gathers and with a Split; as torch.nn.MultiheadAttention does; a Gemm of two."""
        return as_programs(
            _sample("t = Transpose <perm = [2, 0, 3, 1, 4]> (r)", PICKS),
            _sample("t = Transpose <perm = [2, 0, 3, 1, 4]> (r)", SPLIT),
            _sample("t = Transpose <perm = [2, 0, 3, 1, 4]> (r)", SLICES),
            _sample(MOVED, PICKS),
            _sample("t = Transpose <perm = [2, 0, 3, 1, 4]> (r)", PICKS, dynamic=True),
        )

    def near_misses(self) -> list[Program]:
        """Packed values that are read elsewhere, picks of another axis, a slice of two, sizes that are not known."""
        turn = "t = Transpose <perm = [2, 0, 3, 1, 4]> (r)"
        return as_programs(
            _sample(turn, f"{PICKS}  e = Exp(t)", outputs=", float[3,batch,2,5,4] e"),
            _sample("t = Transpose <perm = [0, 2, 3, 1, 4]> (r)", "q = Gather(t, first)  k = Relu(q)  v = Relu(k)"),
            _sample(turn, "g = Gather(t, both)  q = Gather(g, first)  k = Relu(q)  v = Relu(k)"),
        )

    def workload(self) -> Program:
        """BERT base's attention in front of the product: 128 positions of width 768, 12 heads."""
        return Program({"main": _large()})


PICKS = "q = Gather(t, first)  k = Gather(t, second)  v = Gather(t, third)"
MOVED = """u = Unsqueeze(r, zero_axis)  m = Transpose <perm = [3, 1, 4, 2, 0, 5]> (u)
    t = Squeeze(m, four_axis)"""
SLICES = """qs = Slice(t, zero_axis, one, zero_axis)  ks = Slice(t, one, two, zero_axis)
    vs = Slice(t, two, end, zero_axis)
    q = Squeeze(qs, zero_axis)  k = Squeeze(ks, zero_axis)  v = Squeeze(vs, zero_axis)"""
SPLIT = """qs, ks, vs = Split <axis = 0, num_outputs = 3> (t)
    q = Squeeze(qs, zero_axis)  k = Squeeze(ks, zero_axis)  v = Squeeze(vs, zero_axis)"""


def _sample(turn: str, picks: str, *, outputs: str = "", dynamic: bool = False) -> onnx.ModelProto:
    one = "float[batch,2,5,4]"
    arrays: dict[str, Any] = {"w": (8, 24), "b": (24,), "sizes": i64(-1, 5, 3, 2, 4), "rest": i64(5, 3, 2, 4)}
    arrays |= {"first": np.int64(0), "second": np.int64(1), "third": np.int64(-1), "both": i64(0, 1)}
    arrays |= {"zero_axis": i64(0), "four_axis": i64(4), "one": i64(1), "two": i64(2), "end": i64(3)}
    target = "n = Shape <start = 0, end = 1> (x)  sizes = Concat <axis = 0> (n, rest)" if dynamic else ""
    body = f"p = MatMul(x, w)  pb = Add(p, b)  {target}  r = Reshape(pb, sizes)  {turn}  {picks}"
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    given = {n: a for n, a in arrays.items() if n in words and not (dynamic and n == "sizes")}
    return graph(f"(float[batch,5,8] x) => ({one} q, {one} k, {one} v{outputs}) {{ {body} }}", **given)


def _large() -> onnx.ModelProto:
    one = "float[1,12,128,64]"
    return graph(
        f"""(float[1,128,768] x) => ({one} q, {one} k, {one} v) {{
            p = MatMul(x, w)  pb = Add(p, b)  r = Reshape(pb, sizes)
            t = Transpose <perm = [2, 0, 3, 1, 4]> (r)  {PICKS} }}""",
        w=(768, 2304),
        b=(2304,),
        sizes=i64(1, 128, 3, 12, 64),
        first=np.int64(0),
        second=np.int64(1),
        third=np.int64(2),
    )


def _turned(reshape: ir.Node, size: int) -> Chain:
    """The axes of the Reshape in the order in which Transposes, Unsqueezes and Squeezes behind it leave them."""
    labels, value = list(range(size)), reshape.outputs[0]
    nodes: list[ir.Node] = []
    while used_once(value):
        node = value.consumers()[0]
        if node.domain != "" or node.inputs[0] is not value:
            break
        if node.op_type == "Transpose":
            perm = attr(node, "perm")
            labels = [labels[axis] for axis in perm] if perm else labels[::-1]
        elif node.op_type in ("Squeeze", "Unsqueeze"):
            moved = axes(node)
            if moved is None:
                break
            if node.op_type == "Unsqueeze":
                for axis in moved:
                    labels.insert(axis, NEW)
            elif all(labels[axis] == NEW for axis in moved):
                labels = [label for axis, label in enumerate(labels) if axis not in moved]
            else:
                break
        else:
            break
        nodes.append(node)
        value = node.outputs[0]
    return labels, tuple(nodes), value


def _picks(packed: ir.Value, labels: list[int]) -> tuple[int, list[Pick]] | Miss | None:
    """The label of the axis that every reader picks from, and what each picks; None where nobody picks."""
    readers = packed.consumers()
    if packed.is_graph_output() or not any(r.op_type in ("Gather", "Split", "Slice") for r in readers):
        return None
    picks: list[Pick] = []
    places: set[int] = set()
    for reader in dict.fromkeys(readers):
        found = _taken(reader, packed)
        if isinstance(found, Miss):
            return found
        axis, more = found
        places.add(axis % len(labels))
        picks += more
    if len(places) != 1:
        return miss("its readers pick from different axes", readers[0], 1)
    label = labels[places.pop()]
    return (label, picks) if label != NEW else miss("what is picked from was added", readers[0], 1)


def _taken(reader: ir.Node, packed: ir.Value) -> tuple[int, list[Pick]] | Miss:
    """The axis and the picks of one reader."""
    if reader.op_type == "Gather" and reader.domain == "" and reader.inputs[0] is packed:
        index = const(reader.inputs[1])
        if index is None or index.ndim:
            return miss("it takes more than one constant part", reader, 1)
        return attr(reader, "axis", 0), [Pick(int(index), reader.outputs[0], (reader,))]
    if reader.op_type == "Slice" and reader.domain == "":
        span = slice_of(reader)
        if span is None or span[2] != span[1] + 1:
            return miss("it takes more than one constant part", reader, 1)
        axis, numbered = span[0], [(span[1], reader.outputs[0])]
    elif reader.op_type == "Split" and reader.domain == "":
        axis, numbered = attr(reader, "axis", 0), list(enumerate(reader.outputs))
    else:
        return miss("it reads the packed values as they are", reader, 2)
    picks = []
    for number, part in numbered:
        squeeze = part.consumers()[0] if used_once(part) else None
        if squeeze is None or squeeze.op_type != "Squeeze" or axes(squeeze) != (axis % (rank(packed) or 1),):
            return miss("a part of it keeps the axis that is split", reader, 1)
        picks.append(Pick(number, squeeze.outputs[0], (reader, squeeze)))
    return axis, picks


def _columns(sizes: tuple[int | str | None, ...], width: int) -> list[int] | None:
    """The last sizes, whose product is the number of columns."""
    found: list[int] = []
    for size in reversed(sizes):
        if math.prod(found) == width and found and found[0] != 1:
            break
        if not isinstance(size, int):
            break
        found.insert(0, size)
    return found if math.prod(found) == width else None


def _without(target: ir.Value | None, label: int, size: int, build: Build) -> ir.Value:
    """A Reshape's target without one of its entries."""
    assert target is not None
    array = const(target)
    if array is not None:
        return build.const("split_sizes", np.delete(array, label))
    kept = build.const("split_kept", np.array([axis for axis in range(size) if axis != label], np.int64))
    return build.op("Gather", target, kept, shape=(size - 1,), axis=0)


def _project(source: Projection, columns: np.ndarray[Any, Any], build: Build) -> ir.Value:
    """The projection again, with some of its columns."""
    matmul = source.matmul
    x, weight, *bias = matmul.inputs
    array = const(weight)
    assert array is not None and weight is not None  # noqa: PT018
    flipped = matmul.op_type == "Gemm" and bool(attr(matmul, "transB", 0))
    part = build.const(f"{weight.name}_part", array[columns] if flipped else array[:, columns])
    lead = dims(matmul.outputs[0])
    shape = None if lead is None else (*lead[:-1], columns.size)
    new = build.like(matmul, x, part, *[_columns_of(b, columns, build) for b in bias], shape=shape)
    if source.add is None:
        return new
    old = matmul.outputs[0]
    operands = [new if v is old else _columns_of(v, columns, build) for v in source.add.inputs]
    return build.like(source.add, *operands, shape=shape)


def _columns_of(bias: ir.Value | None, columns: np.ndarray[Any, Any], build: Build) -> ir.Value | None:
    array = const(bias)
    if bias is None or array is None or array.size == 1:
        return bias
    return build.const(f"{bias.name}_part", array[..., columns])


RULE = SplitPackedProjection()
