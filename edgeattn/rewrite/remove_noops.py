"""remove_noops: operators that hand their input on unchanged go.

What: Cast to the same type, Transpose that keeps the order, Reshape to the shape that is there, Flatten of a matrix,
Dropout at inference, Slice of everything, adding 0, multiplying or dividing by 1, Concat of one value, Gather of what
was just put into a stack.

Why: exporters write them for every view, dropout and type promotion. Each costs a launch, some a copy, and all of them
stand between the operators that other rules and engines look for.

Before: x → Dropout → Mul(1) → Cast(float) → Relu        After: x → Relu

Safe when: types and shapes are known to be the same, by number or by symbol; a result of the graph keeps its last
node. Bit-exact.
Source: ONNX operator definitions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeattn.rewrite._rule import BIT_EXACT, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import f32, graph, i64
from edgeattn.rewrite._view import attr, const, dims, made_by, rank

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build

NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}


class RemoveNoops(GraphRule):
    """What changes nothing, dropped."""

    name = "remove_noops"
    exactness = BIT_EXACT
    anchors = ("Cast", "Transpose", "Reshape", "Flatten", "Dropout", "Slice", "Concat", "Gather", *NEUTRAL)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the operator itself."""
        found = _LOOK[node.op_type](node)
        if found is None or isinstance(found, Miss):
            return found
        if node.outputs[0].is_graph_output():
            return miss("it gives a result of the graph its name", node, 2)
        return Match(node, (node,), {"same": found})

    def rewrite(self, match: Match, build: Build) -> None:
        """Readers take the value before."""
        build.replace(match.anchor.outputs[0], match.parts["same"])

    def examples(self) -> list[Program]:
        """One of each kind."""
        head = "(float[batch,4] x) => (float[batch,4] y)"
        return as_programs(
            graph(f"{head} {{ a = Cast <to = 1> (x)  y = Relu(a) }}"),
            graph(f"{head} {{ a = Transpose <perm = [0, 1]> (x)  y = Relu(a) }}"),
            graph(f"{head} {{ a, m = Dropout(x)  y = Relu(a) }}"),
            graph(f"{head} {{ a = Slice(x, s, e)  y = Relu(a) }}", s=i64(0), e=i64(2**63 - 1)),
            graph(f"{head} {{ a = Add(zero, x)  b = Div(a, one)  y = Relu(b) }}", zero=f32(0.0), one=f32(1.0)),
            graph(f"{head} {{ a = Concat <axis = 0> (x)  y = Relu(a) }}"),
            graph("(float[2,4] x) => (float[2,4] y) { a = Reshape(x, t)  y = Relu(a) }", t=i64(-1, 4)),
            graph(f"{head} {{ a = Flatten(x)  y = Relu(a) }}"),
            graph(
                "(float[batch,4] x) => (float[batch,4] y, float[batch,2,4] s) { n = Tanh(x)  a = Unsqueeze(x, one)"
                "  b = Unsqueeze(n, one)  s = Concat <axis = 1> (a, b)  g = Gather <axis = 1> (s, last)  y = Relu(g) }",
                one=i64(1),
                last=np.array(-1),
            ),
        )

    def near_misses(self) -> list[Program]:
        """A real cast, a real slice, a widening zero, the graph's result, a row of what is no stack."""
        return as_programs(
            graph("(float[batch,4] x) => (double[batch,4] y) { y = Cast <to = 11> (x) }"),
            graph("(float[batch,4] x) => (float[batch,3] y) { y = Slice(x, s, e, a) }", s=i64(0), e=i64(3), a=i64(1)),
            graph("(float[4] x) => (float[1,4] y) { a = Add(x, z)  y = Relu(a) }", z=f32(0.0).reshape(1, 1)),
            graph("(float[batch,4] x) => (float[batch,4] y) { y = Cast <to = 1> (x) }"),
            graph(
                "(float[2,4] x) => (float[4] y) { n = Tanh(x)  s = Concat <axis = 0> (x, n)"
                "  g = Gather <axis = 0> (s, second)  y = Relu(g) }",
                second=np.array(1),
            ),
        )


def _cast(node: ir.Node) -> ir.Value | Miss | None:
    value = node.inputs[0]
    if value is None or value.dtype is None:
        return miss("the type it casts is not known", node, 0)
    if int(value.dtype) != attr(node, "to"):
        return miss(f"it turns {value.dtype.name} into another type", node, 0)
    return value


def _transpose(node: ir.Node) -> ir.Value | Miss | None:
    perm = attr(node, "perm")
    if perm is None or list(perm) != sorted(perm):
        return miss("it changes the order of the axes", node, 0)
    return node.inputs[0]


def _reshape(node: ir.Node) -> ir.Value | Miss | None:
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    target = const(node.inputs[1])
    if before is not None and before == after and all(isinstance(d, int) for d in before):
        return node.inputs[0]
    if before is not None and target is not None and _keeps([int(t) for t in target.reshape(-1)], before, node):
        return node.inputs[0]
    return None


def _flatten(node: ir.Node) -> ir.Value | Miss | None:
    if rank(node.inputs[0]) != 2 or attr(node, "axis", 1) not in (1, -1):
        return miss("its input is no matrix already", node, 0)
    return node.inputs[0]


def _keeps(target: list[int], before: tuple[int | str | None, ...], node: ir.Node) -> bool:
    """Whether a constant target names every dimension as it is; one of them may be left to -1."""
    if len(target) != len(before):
        return False
    copies = not attr(node, "allowzero", 0)
    same = [t == d or (t == 0 and copies) for t, d in zip(target, before, strict=True)]
    return all(s or t == -1 for s, t in zip(same, target, strict=True)) and same.count(False) <= 1


def _dropout(node: ir.Node) -> ir.Value | Miss | None:
    if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        return miss("its mask is read", node, 1)
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None and (const(training) is None or bool(const(training).any())):  # type: ignore[union-attr]
        return miss("it may run in training mode", node, 1)
    return node.inputs[0]


def _slice(node: ir.Node) -> ir.Value | Miss | None:
    given = [const(v) for v in node.inputs[1:]]
    if len(given) < 2 or any(g is None for g, v in zip(given, node.inputs[1:], strict=True) if v is not None):
        return miss("where it begins and ends is not constant", node, 0)
    starts, ends = given[0], given[1]
    which, steps = (*given[2:], None, None)[:2]
    shape = dims(node.inputs[0])
    assert starts is not None
    assert ends is not None
    chosen = range(starts.size) if which is None else [int(a) for a in which.reshape(-1)]
    for axis, start, end in zip(chosen, starts.reshape(-1), ends.reshape(-1), strict=True):
        size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
        if start != 0 or not (end >= 2**31 - 1 or (isinstance(size, int) and end >= size)):
            return miss(f"it takes {start} to {end} of axis {axis}", node, 0)
    if steps is not None and (steps != 1).any():
        return miss("its steps are not 1", node, 0)
    return node.inputs[0]


def _concat(node: ir.Node) -> ir.Value | Miss | None:
    return node.inputs[0] if len(node.inputs) == 1 else None


def _gather(node: ir.Node) -> ir.Value | Miss | None:
    stack, index, size = made_by(node.inputs[0], "Concat"), const(node.inputs[1]), rank(node.inputs[0])
    if stack is None or index is None or index.ndim or size is None:
        return None
    axis, parts = attr(stack, "axis") % size, len(stack.inputs)
    if attr(node, "axis", 0) % size != axis or not -parts <= int(index) < parts:
        return None
    layers = [made_by(part, "Unsqueeze") for part in stack.inputs]
    if any(layer is None or _added(layer, size) != [axis] for layer in layers):
        return miss("it takes a row of values that were joined, not stacked", node, 1)
    chosen = layers[int(index)]
    return chosen.inputs[0] if chosen is not None else None


def _added(unsqueeze: ir.Node, size: int) -> list[int] | None:
    """The axes that an Unsqueeze adds, counted in its result of rank ``size``; None where they are computed."""
    given = const(unsqueeze.inputs[1]) if len(unsqueeze.inputs) > 1 else attr(unsqueeze, "axes")
    return None if given is None else [int(axis) % size for axis in np.reshape(given, -1)]


def _arithmetic(node: ir.Node) -> ir.Value | Miss | None:
    left, right = node.inputs
    orders = [(left, right)] if node.op_type in ("Sub", "Div") else [(left, right), (right, left)]
    for value, neutral in orders:
        array, size = const(neutral), rank(value)
        if array is None or array.size != 1 or float(array.flat[0]) != NEUTRAL[node.op_type]:
            continue
        if array.ndim and (size is None or array.ndim > size):
            return miss(f"its constant of {array.ndim} dimensions may widen the other operand", node, 1)
        return value
    return None


_LOOK = {
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Dropout": _dropout,
    "Slice": _slice,
    "Concat": _concat,
    "Gather": _gather,
    **dict.fromkeys(NEUTRAL, _arithmetic),
}

RULE = RemoveNoops()
