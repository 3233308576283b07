"""merge_shared_mlp: CBAM's shared MLP runs once over both pooled maps.

What: ``fc2(act(fc1(a))) + fc2(act(fc1(m)))`` with shared 1×1 convolutions becomes one pass over a and m stacked along
height, summed before the second convolution, whose bias then counts twice.

Why: four tiny convolutions become two. Launch overhead, not arithmetic, is what a channel gate costs.

Before: Add(Conv₂(Relu(Conv₁(a))), Conv₂(Relu(Conv₁(m))))
After: Conv₂'(ReduceSum(Relu(Conv₁(Concat(a, m, axis=2))), axis=2)) with bias 2·b₂

Safe when: both branches hold the same constant weights and activation, maps are (N, C, 1, 1), and nothing reads the
values in between. Conv₂ is linear, so the sum moves inside: the same up to the order of addition.
Source: CBAM, Woo et al. 2018, equation 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph
from edgeattn.rewrite._view import attr, const, dims, is_gate, made_by, same

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build

ACTIVATIONS = ("Relu", "LeakyRelu", "Elu", "Selu", "Gelu", "HardSwish", "Mish", "Tanh", "Sigmoid", "HardSigmoid")


class MergeSharedMlp(GraphRule):
    """Two runs of one bottleneck MLP, as one."""

    name = "merge_shared_mlp"
    exactness = ALLCLOSE
    anchors = ("Add",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the Add that joins the branches."""
        left, right = (_branch(v) for v in node.inputs)
        if left is None or right is None:
            return None
        if isinstance(left, Miss):
            return left
        if isinstance(right, Miss):
            return right
        if len(left) != len(right):
            return miss("the branches have different activations", node, 2)
        for near, (ours, theirs) in enumerate(zip(left, right, strict=True)):
            difference = _difference(ours, theirs)
            if difference:
                return miss(difference, theirs, near + 2)
        if left[-1].inputs[0] is right[-1].inputs[0]:
            return miss("both branches read the same value", node, 5)
        for conv in (left[-1], right[-1]):
            if not is_gate(dims(conv.inputs[0])):
                return miss(f"it reads {dims(conv.inputs[0])}, not a pooled map (N, C, 1, 1)", conv, 4)
        return Match(node, (*reversed(left), *reversed(right), node), {"left": left, "right": right})

    def rewrite(self, match: Match, build: Build) -> None:
        """Concat → Conv → activation → ReduceSum → Conv with twice the bias."""
        left, right = match.parts["left"], match.parts["right"]
        second, *activation, first = left
        a, m = first.inputs[0], right[-1].inputs[0]
        (n, c, *_), (_, hidden, *_) = dims(a) or (None,) * 2, dims(first.outputs[0]) or (None,) * 2
        stacked = build.op("Concat", a, m, shape=(n, c, 2, 1), source=first, axis=2)
        value = build.like(first, stacked, *first.inputs[1:], shape=(n, hidden, 2, 1))
        value = _activate(activation, first.outputs[0], value, build, (n, hidden, 2, 1))
        axes = build.const("stacked_axis", np.array([2], np.int64))
        summed = build.op("ReduceSum", value, axes, shape=(n, hidden, 1, 1), source=second, keepdims=1)
        inputs = [summed, second.inputs[1]]
        if len(second.inputs) > 2:
            bias = const(second.inputs[2])
            assert bias is not None
            inputs.append(build.const(f"{second.inputs[2].name}_twice", bias * bias.dtype.type(2)))
        old = match.anchor.outputs[0]
        build.replace(old, build.like(second, *inputs, shape=dims(old)))

    opsets = (13, 26)  # ReduceSum with axes as an input

    def examples(self) -> list[Program]:
        """With biases and ReLU; without and with SiLU."""
        return as_programs(_cbam(), _silu())

    def near_misses(self) -> list[Program]:
        """Other weights in one branch, another activation, a hidden value that is read, maps that are not pooled."""
        return as_programs(
            _cbam(mb="Conv(rb, w3, b2)"),
            _cbam(rb="Tanh(cb)"),
            _cbam(outputs=", float[batch,4,1,1] ra"),
            _cbam(pool="Relu"),
        )


def _cbam(
    rb: str = "Relu(cb)", mb: str = "Conv(rb, w2, b2)", outputs: str = "", pool: str = "GlobalMaxPool"
) -> onnx.ModelProto:
    other = "AveragePool <kernel_shape = [1, 1]>" if pool == "Relu" else "GlobalAveragePool"
    size = "6,6" if pool == "Relu" else "1,1"
    return graph(
        f"""(float[batch,8,6,6] x) => (float[batch,8,{size}] y{outputs}) {{
            a = {other} (x)
            b = {pool}(x)
            ca = Conv(a, w1, b1)
            ra = Relu(ca)
            ma = Conv(ra, w2, b2)
            cb = Conv(b, w1, b1)
            rb = {rb}
            mb = {mb}
            y = Add(ma, mb) }}""",
        w1=(4, 8, 1, 1),
        b1=(4,),
        w2=(8, 4, 1, 1),
        b2=(8,),
        w3=(8, 4, 1, 1),
    )


def _silu() -> onnx.ModelProto:
    return graph(
        """(float[batch,8,h,w] x) => (float[batch,8,1,1] y) {
            a = GlobalAveragePool(x)
            b = GlobalMaxPool(x)
            ca = Conv(a, w1)
            sa = Sigmoid(ca)
            ra = Mul(ca, sa)
            ma = Conv(ra, w2)
            cb = Conv(b, w1)
            sb = Sigmoid(cb)
            rb = Mul(sb, cb)
            mb = Conv(rb, w2)
            y = Add(ma, mb) }""",
        w1=(4, 8, 1, 1),
        w2=(8, 4, 1, 1),
    )


def _branch(value: ir.Value | None) -> tuple[ir.Node, ...] | Miss | None:
    """``(second conv, activation nodes, first conv)`` behind a value; None if the value is no 1×1 Conv's."""
    second = made_by(value, "Conv")
    if second is None or not _pointwise(second):
        return None
    hidden = second.inputs[0]
    activation = made_by(hidden, *ACTIVATIONS, "Mul")
    if activation is None:
        return None
    inner, steps = activation.inputs[0], [activation]
    if activation.op_type == "Mul":
        sigmoid = _silu_gate(activation)
        if sigmoid is None:
            return miss("its Mul is not x·sigmoid(x)", activation, 1)
        inner, steps = sigmoid.inputs[0], [activation, sigmoid]
    first = made_by(inner, "Conv")
    if first is None or not _pointwise(first):
        return miss("no 1x1 Conv with constant weights lies before the activation", activation, 1)
    nodes = (second, *steps, first)
    for node in nodes:
        readers = {id(reader) for reader in node.outputs[0].consumers()}
        limit = 2 if node is first and len(steps) == 2 else 1
        if node.outputs[0].is_graph_output() or len(readers) > limit:
            return miss("its value is read elsewhere too", node, 2)
    return nodes


def _silu_gate(mul: ir.Node) -> ir.Node | None:
    """The Sigmoid of ``x·sigmoid(x)``."""
    for x, gate in (mul.inputs, mul.inputs[::-1]):
        sigmoid = made_by(gate, "Sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is x:
            return sigmoid
    return None


def _pointwise(conv: ir.Node) -> bool:
    """1×1, ungrouped, unpadded, stride 1, constant weights."""
    w = const(conv.inputs[1])
    bias_known = len(conv.inputs) < 3 or const(conv.inputs[2]) is not None
    plain = attr(conv, "group", 1) == 1 and not any(attr(conv, "pads", ())) and set(attr(conv, "strides", (1,))) == {1}
    return w is not None and w.shape[2:] == (1, 1) and plain and bias_known


def _difference(ours: ir.Node, theirs: ir.Node) -> str:
    """How two nodes of the branches differ, or an empty string."""
    if ours.op_type != theirs.op_type:
        return f"one branch has {ours.op_type}, the other {theirs.op_type}"
    if {k: a.value for k, a in ours.attributes.items()} != {k: a.value for k, a in theirs.attributes.items()}:
        return "attributes differ between the branches"
    if ours.op_type == "Conv":
        shared = len(ours.inputs) == len(theirs.inputs) and all(map(same, ours.inputs[1:], theirs.inputs[1:]))
        return "" if shared else "weights differ between the branches: the MLP is not shared"
    return ""


def _activate(
    steps: list[ir.Node], old: ir.Value, value: ir.Value, build: Build, shape: tuple[int | str | None, ...]
) -> ir.Value:
    """The activation again, on the stacked value; SiLU is a Mul of it with its sigmoid."""
    if len(steps) == 1:
        return build.like(steps[0], value, shape=shape)
    mul, sigmoid = steps
    return build.like(mul, value, build.like(sigmoid, value, shape=shape), shape=shape)


RULE = MergeSharedMlp()
