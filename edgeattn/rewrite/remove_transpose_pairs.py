"""remove_transpose_pairs: a Transpose that another one takes back goes, and so does the other.

What: two Transposes in a row become one, or none where the second undoes the first. Where elementwise operators,
Softmax, Concat or a Reduce lie between, they work in the order from before, with their axes renumbered and their
constants transposed, and both Transposes go.

Why: every Transpose is a copy of the whole tensor. ``batch_first``, ``x.transpose(1, 2)`` around a layer and the head
split of attention leave pairs of them that the exporter does not see.

Before: x → Transpose(0,2,1) → Add(b) → Relu → Transpose(0,2,1) → y
After:  x → Add(bᵀ) → Relu → y

Safe when: everything the second Transpose reads comes from Transposes that it takes back, or from constants, and
nothing reads the values in between. No Transpose is ever added or moved onto another tensor, so there is always one
less. Bit-exact (a Reduce adds in the engine's order).
Source: permutations compose; elementwise operators do not see the order of axes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.program import Program
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import BROADCASTING, attr, axes, const, dims, made_by, rank, used_once

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build

UNARY = frozenset(
    {"Abs", "Cast", "Ceil", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish"}
    | {"Identity", "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid"}
    | {"Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh"}
)
ALONG = ("Softmax", "LogSoftmax", "Concat")  # with one axis, which is renumbered
REDUCING = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceProd", "ReduceL2", "ReduceLogSumExp")
MOST_NODES = 32


@dataclass
class Between:
    """What lies between a Transpose and those it takes back."""

    perm: tuple[int, ...]  # of the lower Transpose
    opset: int
    nodes: list[ir.Node] = field(default_factory=list)  # producers first
    uppers: list[ir.Node] = field(default_factory=list)

    def visit(self, value: ir.Value | None, reader: ir.Node) -> Miss | None:
        """None if ``value`` can be had in the order from before; else why not."""
        array = const(value)
        if value is None or (array is not None and array.ndim <= len(self.perm)):
            return None
        node = value.producer()
        if node is None or node.domain:
            return miss(f"'{value.name}' comes in the order it has", reader, 1)
        if node in self.nodes:
            return None
        if node.op_type == "Transpose":
            return self._upper(node)
        if len(self.nodes) > MOST_NODES or not self._movable(node):
            return miss(f"a Transpose cannot pass {node.op_type}", node, 2)
        for operand in node.inputs if node.op_type not in REDUCING else node.inputs[:1]:
            if (answer := self.visit(operand, node)) is not None:
                return answer
        self.nodes.append(node)
        return None

    def outside_reader(self, anchor: ir.Node) -> Miss | None:
        """A node beside these that reads a value in between; the graph's output counts as one."""
        for node in self.nodes:
            value = node.outputs[0]
            if value.is_graph_output() or any(r not in self.nodes and r is not anchor for r in value.consumers()):
                return miss("its value is read elsewhere too", node, 3)
        return None

    def _upper(self, node: ir.Node) -> Miss | None:
        upper = _perm(node)
        if upper is None or len(upper) != len(self.perm) or not _is_identity(_compose(upper, self.perm)):
            return miss(f"Transpose {upper} is not taken back by {self.perm}", node, 3)
        if node not in self.uppers:
            self.uppers.append(node)
        return None

    def _movable(self, node: ir.Node) -> bool:
        size = rank(node.outputs[0])
        if size != len(self.perm) or len(node.outputs) != 1:
            return False
        if node.op_type in UNARY or node.op_type in BROADCASTING:
            return True
        if node.op_type in ALONG:
            return node.op_type == "Concat" or self.opset >= 13
        return node.op_type in REDUCING and bool(attr(node, "keepdims", 1)) and axes(node) is not None


class RemoveTransposePairs(GraphRule):
    """Two Transposes as one or none."""

    name = "remove_transpose_pairs"
    exactness = ALLCLOSE
    anchors = ("Transpose",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the lower Transpose."""
        perm = _perm(node)
        value = node.inputs[0]
        if perm is None or value is None or value.producer() is None:
            return None
        upper = made_by(value, "Transpose")
        if upper is not None:
            return self._two(node, perm, upper)
        between = Between(perm, view.opset)
        answer = between.visit(value, node)
        if answer is not None or not between.uppers:
            return answer
        if (outsider := between.outside_reader(node)) is not None:
            return outsider
        return Match(node, (*between.uppers, *between.nodes, node), {"between": between})

    @staticmethod
    def _two(node: ir.Node, perm: tuple[int, ...], upper: ir.Node) -> Match | Miss | None:
        first = _perm(upper)
        if first is None or len(first) != len(perm):
            return None
        both = _compose(first, perm)
        gone = _is_identity(both)
        if not gone and not used_once(upper.outputs[0]):
            return miss("the value between the two Transposes is read elsewhere too", upper, 3)
        return Match(node, (upper, node), {"perm": both})

    def rewrite(self, match: Match, build: Build) -> None:
        """The composed Transpose; or the operators between in the order from before."""
        old = match.anchor.outputs[0]
        if "perm" in match.parts:
            first, perm = match.nodes[0].inputs[0], match.parts["perm"]
            assert first is not None
            done = first if _is_identity(perm) else build.op("Transpose", first, shape=dims(old), perm=list(perm))
            build.replace(old, done)
            return
        between: Between = match.parts["between"]
        values: dict[ir.Value, ir.Value] = {}
        for upper in between.uppers:
            assert upper.inputs[0] is not None
            values[upper.outputs[0]] = upper.inputs[0]
        for node in between.nodes:
            values[node.outputs[0]] = _again(node, values, between.perm, build)
        source = match.anchor.inputs[0]
        assert source is not None
        build.replace(old, values[source])

    def examples(self) -> list[Program]:
        """Undone, merged, around elementwise operators with constants, a Softmax, a Concat of two, a ReduceMean."""
        head = "(float[batch,3,5] x) => (float[batch,3,5] y)"
        down, up = "a = Transpose <perm = [0, 2, 1]> (x)", "y = Transpose <perm = [0, 2, 1]>"
        return as_programs(
            graph(f"{head} {{ {down}  b = Transpose <perm = [0, 2, 1]> (a)  y = Relu(b) }}"),
            graph(
                """(float[batch,s,2,3] x) => (float[batch,2,3,s] y) {
                    a = Transpose <perm = [0, 2, 1, 3]> (x)
                    y = Transpose <perm = [0, 1, 3, 2]> (a) }"""
            ),
            graph(f"{head} {{ {down}  b = Add(a, w)  c = Mul(two, b)  d = Tanh(c) {up} (d) }}", w=(3,), two=(5, 1)),
            graph(f"{head} {{ {down}  b = Softmax <axis = 1> (a) {up} (b) }}"),
            graph(
                f"""(float[batch,3,5] x, float[batch,3,4] z) => (float[batch,3,9] y) {{ {down}
                    b = Transpose <perm = [0, 2, 1]> (z)  c = Concat <axis = 1> (a, b) {up} (c) }}"""
            ),
            graph(
                f"""{head} {{ {down}  m = ReduceMean(a, i)  b = Sub(a, m) {up} (b) }}""",
                i=i64(-1),
            ),
        )

    def near_misses(self) -> list[Program]:
        """Read in between, an operand that was not transposed, another order, a MatMul between."""
        head = "(float[batch,3,5] x) => (float[batch,3,5] y"
        down, up = "a = Transpose <perm = [0, 2, 1]> (x)", "y = Transpose <perm = [0, 2, 1]>"
        return as_programs(
            graph(f"{head}, float[batch,5,3] b) {{ {down}  b = Relu(a) {up} (b) }}"),
            graph(
                f"(float[batch,3,5] x, float[batch,5,3] z) => (float[batch,3,5] y) {{ {down} b = Add(a, z) {up} (b) }}"
            ),
            graph(
                """(float[2,3,4] x) => (float[3,4,2] y) {
                    a = Transpose <perm = [0, 2, 1]> (x)  b = Relu(a)  y = Transpose <perm = [2, 1, 0]> (b) }"""
            ),
            graph(f"{head}) {{ {down}  b = MatMul(a, w) {up} (b) }}", w=(3, 3)),
        )

    def workload(self) -> Program:
        """A head split and the K transpose behind it, 12 heads of 64 at 128 positions, and an activation turned."""
        return Program({"main": _heads()})


def _heads() -> onnx.ModelProto:
    return graph(
        """(float[1,128,12,64] k, float[1,128,768] x) => (float[1,12,64,128] kt, float[1,128,768] y) {
            a = Transpose <perm = [0, 2, 1, 3]> (k)
            kt = Transpose <perm = [0, 1, 3, 2]> (a)
            b = Transpose <perm = [0, 2, 1]> (x)
            c = Tanh(b)
            y = Transpose <perm = [0, 2, 1]> (c) }"""
    )


def _perm(node: ir.Node) -> tuple[int, ...] | None:
    """The order a Transpose gives; without one it reverses the axes."""
    given, size = attr(node, "perm"), rank(node.inputs[0])
    if given is not None:
        return tuple(given)
    return None if size is None else tuple(reversed(range(size)))


def _compose(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(first[axis] for axis in second)


def _is_identity(perm: tuple[int, ...]) -> bool:
    return perm == tuple(range(len(perm)))


def _again(node: ir.Node, values: dict[ir.Value, ir.Value], perm: tuple[int, ...], build: Build) -> ir.Value:
    """``node`` on operands that were not transposed.

    ``perm`` brings a value from the order between the Transposes back to the one before: axis ``a`` of the former is
    axis ``perm.index(a)`` of the latter.
    """
    shape = dims(node.outputs[0])
    assert shape is not None
    turned = tuple(shape[axis] for axis in perm)
    attributes: dict[str, Any] = {name: a.value for name, a in node.attributes.items()}
    operands = [v if v is None else values.get(v) or _turned(v, perm, build) for v in node.inputs]
    if node.op_type in ALONG:
        axis = attr(node, "axis", -1) % len(perm)
        attributes["axis"] = perm.index(axis)
    elif node.op_type in REDUCING:
        reduced = [perm.index(axis) for axis in axes(node) or ()]
        operands = operands[:1]
        if "axes" in attributes:
            attributes["axes"] = reduced
        else:
            operands.append(build.const("reduced_axes", np.array(reduced, np.int64)))
    elif node.op_type not in BROADCASTING:  # the bounds of a Clip are scalars
        operands = [operands[0], *node.inputs[1:]]
    out = node.outputs[0]
    return build.op(node.op_type, *operands, shape=turned, dtype=out.dtype, source=node, **attributes)


def _turned(value: ir.Value, perm: tuple[int, ...], build: Build) -> ir.Value:
    """A constant in the order from before; one of a single element fits as it is."""
    array = const(value)
    if array is None or array.size == 1:
        return value
    full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    return build.const(f"{value.name}_turned", full.transpose(perm))


RULE = RemoveTransposePairs()
