"""Which axis of a tensor holds its channels: 1 as convolutions have it, or the last, as TensorFlow's exports do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.recognise._graph import SAME, Graph

if TYPE_CHECKING:
    import onnx

_FIRST = frozenset(
    {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "BatchNormalization", "InstanceNormalization"}
    | {"GroupNormalization", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "Upsample"}
    | {"DepthToSpace", "SpaceToDepth", "LRN", "PRelu"}
)
_ALIKE = SAME | {
    *("Relu", "LeakyRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus", "Gelu", "Mish"),
    *("Clip", "Erf", "Exp", "Neg", "Abs", "Sqrt", "Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "Pad", "Sum"),
}
_STEPS = 24


def channel_axis(graph: Graph, name: str) -> int | None:
    """The axis of the channels as the operators around a value tell it; None where they do not."""
    return _from_producers(graph, name) or _from_readers(graph, name)


def _from_producers(graph: Graph, name: str) -> int | None:
    """Back through operators that keep the layout; a Transpose's turn is undone on the way back down."""
    turns: list[list[int]] = []
    for _ in range(_STEPS):
        node = graph.producer.get(name)
        if node is None:
            return None
        if node.op_type in _FIRST:
            return _turned(1, turns)
        if node.op_type in ("MatMul", "Gemm") and graph.weight(node) is not None:
            rank = graph.rank(name)
            return None if rank is None else _turned(rank - 1, turns)
        if node.op_type == "Transpose":
            turns.append(list(graph.attributes(node).get("perm", [])))
        elif node.op_type not in _ALIKE:
            return None
        following = _like(graph, node, name)
        if following is None:
            return None
        name = following
    return None


def _like(graph: Graph, node: onnx.NodeProto, name: str) -> str | None:
    """The operand with the shape of the result."""
    shape, rank = graph.dims(name), graph.rank(name)
    data = graph.data_inputs(node)
    whole = [n for n in data if graph.dims(n) == shape]
    return next(iter(whole or [n for n in data if graph.rank(n) == rank]), None)


def _turned(axis: int, turns: list[list[int]]) -> int | None:
    for perm in reversed(turns):
        if axis not in perm:
            return None
        axis = perm.index(axis)
    return axis or None


def _from_readers(graph: Graph, name: str) -> int | None:
    """A convolution that reads the value, or reads it transposed."""
    for node in graph.consumers.get(name, [])[:8]:
        if node.op_type in _FIRST - {"PRelu"} and not node.op_type.startswith("Global"):
            return 1
        if node.op_type == "Transpose":
            perm = list(graph.attributes(node).get("perm", []))
            readers = graph.consumers.get(node.output[0], [])
            if len(perm) > 1 and perm[1] and any(r.op_type in ("Conv", "BatchNormalization") for r in readers):
                return int(perm[1])
    return None
