"""merge_shared_mlp: CBAM's shared MLP runs once over both pooled maps.

What: ``fc2(act(fc1(a))) + fc2(act(fc1(m)))`` with shared 1×1 convolutions becomes one pass over a and m stacked along
height. The second convolution is two rows high, with the same weights in both, so that it is also the sum; its bias
then counts twice.

Why: four tiny convolutions and an Add become two. Launch overhead, not arithmetic, is what a channel gate costs.

Before: a ─ Conv₁ ─ Relu ─ Conv₂ ─┐
        m ─ Conv₁ ─ Relu ─ Conv₂ ─┴ Add
After:  a ─┐
        m ─┴ Concat(axis=2) ─ Conv₁ ─ Relu ─ Conv of height 2 with weights [W₂; W₂] and bias 2·b₂

Safe when: both branches hold the same constant weights and activation, maps are (N, C, 1, 1), and nothing reads the
values in between. The second convolution is linear: the same up to the order of addition.
Source: CBAM, Woo et al. 2018, equation 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import channel_gate, graph
from edgeattn.rewrite._view import attr, const, dims, is_gate, made_by, same

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build

POINTWISE = frozenset(
    {"Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "HardSwish", "Mish", "Tanh", "Sigmoid", "HardSigmoid", "Erf"}
    | {"Softplus", "Softsign", "Clip", "Pow", "Add", "Sub", "Mul", "Div", "Exp"}
)
COMMUTATIVE = ("Add", "Mul")


@dataclass
class Branches:
    """Two branches walked in step: the activation's nodes, left and right, producers first, and the first convs."""

    left: dict[ir.Node, ir.Node] = field(default_factory=dict)
    first: tuple[ir.Node, ir.Node] | None = None

    def pair(self, ours: ir.Value | None, theirs: ir.Value | None) -> Miss | None:
        """None if both values are computed alike from one 1×1 Conv each; constants must be equal."""
        if ours is None or theirs is None or const(ours) is not None:
            return None if same(ours, theirs) else miss("constants differ between the branches", _maker(theirs), 3)
        a, b = ours.producer(), theirs.producer()
        if a is None or b is None:
            return miss("no Conv lies before the activation", a or b, 1)
        if self.left.get(a) is b or self.first == (a, b):
            return None
        if a.op_type != b.op_type or _attributes(a) != _attributes(b) or len(a.inputs) != len(b.inputs):
            return miss(f"one branch has {a.op_type}, the other {b.op_type}, or other attributes", b, 2)
        if a.op_type == "Conv":
            return self._begin(a, b)
        if a.op_type not in POINTWISE:
            return miss("it is neither a 1x1 Conv nor elementwise", a, 2)
        answer = self._operands(a.inputs, b.inputs)
        if answer is not None and a.op_type in COMMUTATIVE:
            answer = self._operands(a.inputs, b.inputs[::-1])
        if answer is None:
            self.left[a] = b
        return answer

    def _operands(self, ours: Sequence[ir.Value | None], theirs: Sequence[ir.Value | None]) -> Miss | None:
        return next((m for m in map(self.pair, ours, theirs) if m is not None), None)

    def _begin(self, a: ir.Node, b: ir.Node) -> Miss | None:
        if self.first is not None:
            return miss("the activation joins two convolutions", a, 3)
        if not (_pointwise(a) and _pointwise(b)):
            return miss("it is not a plain 1x1 Conv with constant weights", a if not _pointwise(a) else b, 3)
        if not all(map(same, a.inputs[1:], b.inputs[1:])):
            return miss("weights differ between the branches: the MLP is not shared", b, 3)
        self.first = (a, b)
        return None


class MergeSharedMlp(GraphRule):
    """Two runs of one bottleneck MLP, as one."""

    name = "merge_shared_mlp"
    exactness = ALLCLOSE
    anchors = ("Add",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the Add that joins the branches."""
        seconds = [made_by(v, "Conv") for v in node.inputs]
        ours, theirs = seconds
        if ours is None or theirs is None or not (_pointwise(ours) and _pointwise(theirs)):
            return None
        if not all(map(same, ours.inputs[1:], theirs.inputs[1:])) or len(ours.inputs) != len(theirs.inputs):
            return miss("weights differ between the branches: the MLP is not shared", theirs, 1)
        branches = Branches()
        answer = branches.pair(ours.inputs[0], theirs.inputs[0])
        if answer is not None or branches.first is None:
            return answer
        if not branches.left:
            return miss("no activation lies between the convolutions", ours, 2)
        maps = [first.inputs[0] for first in branches.first]
        if not _same_batch(*maps):
            return miss("it is not proven that both maps have the same batch size", branches.first[1], 4)
        left = [branches.first[0], *branches.left, ours]
        between = [(step.outputs[0], step) for step in left] + [(f.inputs[0], f) for f in branches.first]
        for value, step in between:
            if not is_gate(dims(value)):
                return miss(f"a value here has shape {dims(value)}, not (N, C, 1, 1)", step, 4)
        inner = [*left, branches.first[1], *branches.left.values(), theirs]
        outsider = _outside_reader(inner, node)
        if outsider is not None:
            return miss("it reads a value in between", outsider, 5)
        return Match(node, (*inner, node), {"left": left, "maps": maps})

    def rewrite(self, match: Match, build: Build) -> None:
        """Concat → Conv → activation → a convolution two rows high, with twice the bias."""
        first, *activation, second = match.parts["left"]
        a, m = match.parts["maps"]
        (n, c, *_), (_, hidden, *_) = dims(a) or (None,) * 2, dims(first.outputs[0]) or (None,) * 2
        stacked = build.op("Concat", a, m, shape=(n, c, 2, 1), source=first, axis=2)
        values = {first.outputs[0]: build.like(first, stacked, *first.inputs[1:], shape=(n, hidden, 2, 1))}
        for node in activation:
            operands = [v if v is None else values.get(v, v) for v in node.inputs]
            values[node.outputs[0]] = build.like(node, *operands, shape=(n, hidden, 2, 1))
        inputs = [values[second.inputs[0]], _twice(second.inputs[1], build, axis=2)]
        if len(second.inputs) > 2:
            bias = const(second.inputs[2])
            assert bias is not None
            inputs.append(build.const(f"{second.inputs[2].name}_twice", bias * bias.dtype.type(2)))
        old = match.anchor.outputs[0]
        build.replace(old, build.op("Conv", *inputs, shape=dims(old), source=second, kernel_shape=[2, 1]))

    def examples(self) -> list[Program]:
        """With biases and ReLU; without and with SiLU, whose Mul is written either way round."""
        return as_programs(_cbam(), _silu())

    def near_misses(self) -> list[Program]:
        """Other weights in one branch, another activation, a hidden value that is read, maps that are not pooled."""
        return as_programs(
            _cbam(mb="Conv(rb, w3, b2)"),
            _cbam(rb="Tanh(cb)"),
            _cbam(outputs=", float[batch,4,1,1] ra"),
            _cbam(pool="Relu"),
        )

    def workload(self) -> Program:
        """The channel gate after ResNet-50's third stage."""
        return as_programs(channel_gate(1, 1024, 14, 14, 64, flat=False))[0]


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


def _twice(weight: ir.Value, build: Build, axis: int) -> ir.Value:
    """A constant followed by itself along an axis."""
    array = const(weight)
    assert array is not None
    return build.const(f"{weight.name}_twice", np.concatenate((array, array), axis))


def _same_batch(a: ir.Value | None, m: ir.Value | None) -> bool:
    """By number or symbol, or because both are pooled from one value."""
    ours, theirs = dims(a), dims(m)
    if ours is not None and theirs is not None and ours[0] is not None and ours[0] == theirs[0]:
        return True
    pools = [made_by(v, "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax") for v in (a, m)]
    return pools[0] is not None and pools[1] is not None and pools[0].inputs[0] is pools[1].inputs[0]


def _pointwise(conv: ir.Node) -> bool:
    """1×1, ungrouped, unpadded, stride 1, constant weights."""
    w = const(conv.inputs[1])
    bias_known = len(conv.inputs) < 3 or const(conv.inputs[2]) is not None
    plain = attr(conv, "group", 1) == 1 and not any(attr(conv, "pads", ())) and set(attr(conv, "strides", (1,))) == {1}
    return w is not None and w.shape[2:] == (1, 1) and plain and bias_known


def _attributes(node: ir.Node) -> dict[str, object]:
    return {name: a.value for name, a in node.attributes.items()}


def _maker(value: ir.Value | None) -> ir.Node | None:
    return value.producer() if value is not None else None


def _outside_reader(inner: Sequence[ir.Node], anchor: ir.Node) -> ir.Node | None:
    """A node beside ``inner`` and the anchor that reads a value of ``inner``; the graph's output counts as one."""
    for node in inner:
        if node.outputs[0].is_graph_output():
            return node
        for reader in node.outputs[0].consumers():
            if reader not in inner and reader is not anchor:
                return reader
    return None


RULE = MergeSharedMlp()
