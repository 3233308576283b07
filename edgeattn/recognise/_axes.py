"""Where the axes of a tensor go: what lies in each dimension of a value, and which axes were reduced away, and how.

A reduction is told by what has become of the axes of the features, not by its operator: two reductions of one axis
each, a mean over a flattened view, a pool as wide as the image, or a sum divided by its length are the same here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeattn.recognise._graph import COPYING, SAME, Dims, Graph
from edgeattn.recognise._regroup import segments

if TYPE_CHECKING:
    import onnx

Group = frozenset[int]
NONE: Group = frozenset()
_GLOBAL = {"GlobalAveragePool": "mean", "GlobalMaxPool": "max", "GlobalLpPool": "norm"}
_WINDOWED = {"AveragePool": "mean", "MaxPool": "max"}
_REDUCING = {
    "ReduceMean": "mean",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceSum": "sum",
    "ReduceL1": "norm",
    "ReduceL2": "norm",
}
POOLS = frozenset({*_GLOBAL, *_WINDOWED, *_REDUCING})


@dataclass(frozen=True)
class Axes:
    """What a value is of some features.

    Attributes:
        dims: for each dimension the axes of the features that lie in it; none for a new one or one of size one. None
            where that cannot be told.
        gone: the sets of axes that were reduced on the ways here; the empty set for a way without a reduction.
        pools: how they were reduced.
        open: nothing but layout and scaling has happened, so that a further reduction is part of the pool.
    """

    dims: tuple[Group, ...] | None
    gone: frozenset[Group] = frozenset({NONE})
    pools: frozenset[str] = frozenset()
    open: bool = True

    @property
    def raw(self) -> bool:
        """Still all of the features."""
        return self.open and self.gone == {NONE}


def whole(rank: int) -> Axes:
    """The features themselves."""
    return Axes(tuple(frozenset({i}) for i in range(rank)))


def step(graph: Graph, node: onnx.NodeProto, known: dict[str, Axes]) -> Axes | None:
    """What a node's first output is, from what its inputs are; None where none of them is of the features."""
    parts = [known[n] for n in node.input if n in known]
    if not parts:
        return None
    first, op = parts[0], node.op_type
    if op in SAME | COPYING or op == "Slice":
        return first
    if op in ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"):
        return replace(first, dims=_moved(graph, node, first.dims))
    if op in POOLS or (op == "Einsum" and len(parts) == 1 and len(node.input) == 1):
        return _reduced(graph, node, first)
    if first.open and is_channel_mean(graph, node):
        return _reduced(graph, node, first)
    if len(parts) == 1 and op in ("Mul", "Div", "Add", "Sub", "Neg") and _is_scaling(graph, node):
        mended = first.pools - {"sum"} | {"mean"} if "sum" in first.pools and op in ("Mul", "Div") else first.pools
        return replace(first, pools=mended)
    if graph.weight(node) is not None or op in ("MatMul", "Gemm", "Conv", "Einsum"):
        return replace(_together(parts), dims=None, open=False)
    return replace(_together(parts), open=False)


def is_channel_mean(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node is a 1×1 convolution with one output channel whose C weights are 1/C: the mean over channels."""
    weight = graph.weight(node) if node.op_type == "Conv" and len(node.input) == 2 else None
    if weight is None or len(weight) < 3 or {weight[0], *weight[2:]} != {1} or not isinstance(weight[1], int):
        return False
    number = graph.number(node.input[1])
    plain = {*graph.attributes(node).get("strides", [1])} == {1} and not any(graph.attributes(node).get("pads", []))
    return plain and number is not None and abs(number * weight[1] - 1) < 1e-3


def _is_scaling(graph: Graph, node: onnx.NodeProto) -> bool:
    """By a number, or by one computed from sizes."""
    others = [n for n in node.input if graph.level(n) < 2]
    return all(graph.number(n) is not None or graph.rank(n) in (0, None) or graph.dims(n) == (1,) for n in others)


def _together(parts: Sequence[Axes]) -> Axes:
    """Of several values that meet: what lies in the same dimensions."""
    gone = frozenset().union(*(p.gone for p in parts))
    pools: frozenset[str] = frozenset().union(*(p.pools for p in parts))
    known = [p.dims for p in parts if p.dims is not None]
    if len(known) < len(parts) or len({len(d) for d in known}) != 1:
        longest = max(known, key=len, default=None) if len(known) == len(parts) else None
        return Axes(longest, gone, pools, False)
    return Axes(tuple(NONE.union(*groups) for groups in zip(*known, strict=True)), gone, pools, False)


def _moved(graph: Graph, node: onnx.NodeProto, dims: tuple[Group, ...] | None) -> tuple[Group, ...] | None:
    """The dimensions after a Transpose, Reshape, Flatten, Squeeze or Unsqueeze."""
    if dims is None:
        return None
    if node.op_type == "Transpose":
        perm = graph.attributes(node).get("perm", range(len(dims))[::-1])
        return tuple(dims[p] for p in perm) if sorted(perm) == list(range(len(dims))) else None
    axes = graph.axes(node)
    if node.op_type == "Unsqueeze" and axes is not None:
        total = len(dims) + len(axes)
        at = {a % total for a in axes}
        rest = iter(dims)
        return tuple(NONE if i in at else next(rest, NONE) for i in range(total))
    if node.op_type == "Squeeze" and axes is not None:
        at = {a % len(dims) for a in axes} if dims else set()
        return tuple(d for i, d in enumerate(dims) if i not in at)
    before, after = graph.dims(node.input[0]), graph.dims(node.output[0])
    return _regrouped(dims, before, after)


def _regrouped(dims: tuple[Group, ...], before: Dims | None, after: Dims | None) -> tuple[Group, ...] | None:
    """The dimensions after a Reshape: what lay in those it merges lies in the one it makes; so with those it splits."""
    runs = None if before is None or after is None or len(before) != len(dims) else segments(before, after)
    if runs is None or after is None:
        return None
    made = [NONE] * len(after)
    for old, new in runs:
        groups = [dims[i] for i in old]
        if len(old) != len(new) and len(new) > 1 < len(old):
            return None
        for j, group in zip(new, groups if len(old) == len(new) else [NONE.union(*groups)] * len(new), strict=True):
            made[j] = group
    return tuple(made)


def _reduced(graph: Graph, node: onnx.NodeProto, before: Axes) -> Axes:
    """After a pool: the axes that lay in the dimensions it covers are gone, if it is one of the features."""
    if before.dims is None:
        return replace(before, open=False)
    covered, kept = _covered(graph, node, len(before.dims))
    if covered is None:
        return replace(before, open=False)
    if not before.open:  # a norm inside the MLP reduces too
        return replace(before, dims=None)
    away = NONE.union(*(before.dims[i] for i in covered))
    dims = tuple(NONE if i in covered else d for i, d in enumerate(before.dims) if kept or i not in covered)
    kind = {**_GLOBAL, **_WINDOWED, **_REDUCING, "Conv": "mean"}.get(node.op_type, "sum")
    return Axes(dims, frozenset(g | away for g in before.gone), before.pools | {kind})


def _covered(graph: Graph, node: onnx.NodeProto, rank: int) -> tuple[set[int] | None, bool]:
    """Which dimensions a pool reduces, None if that is unknown or a window leaves some; and whether they stay."""
    if node.op_type in _GLOBAL:
        return set(range(2, rank)), True
    if node.op_type == "Conv":
        return {1}, True
    if node.op_type in _WINDOWED:
        return _windowed(graph, node), True
    if node.op_type == "Einsum":
        terms = str(graph.attributes(node).get("equation", b"").decode()).replace(" ", "").split("->")
        fine = len(terms) == 2 and len(terms[0]) == rank and set(terms[1]) < set(terms[0]) and terms[0].isalpha()
        in_order = fine and [c for c in terms[0] if c in terms[1]] == list(terms[1])
        return ({i for i, c in enumerate(terms[0]) if c not in terms[1]} if in_order else None), False
    axes = graph.axes(node)
    return (None if axes is None else {a % rank for a in axes}), bool(graph.attributes(node).get("keepdims", 1))


def _windowed(graph: Graph, pool: onnx.NodeProto) -> set[int] | None:
    """The dimensions that a window covers whole; where no sizes are known, any window that is no row or column."""
    window = list(graph.attributes(pool).get("kernel_shape", []))
    sizes = list((graph.dims(pool.input[0]) or ())[2:])
    if not sizes or not all(isinstance(n, int) for n in sizes):
        return None if 1 in window else set(range(2, 2 + len(window)))
    if len(sizes) != len(window) or any(w not in (1, n) for w, n in zip(window, sizes, strict=True)):
        return None
    return {i + 2 for i, (w, n) in enumerate(zip(window, sizes, strict=True)) if w == n}
