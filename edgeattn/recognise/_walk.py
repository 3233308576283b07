"""The way back from a gate to the features it multiplies: what is read on it, and what is reduced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeattn.graphs import GraphIndex, attributes

if TYPE_CHECKING:
    import onnx

RESHAPING = ("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Expand", "Identity", "Cast", "Transpose", "Tile")
QDQ = ("QuantizeLinear", "DequantizeLinear")
_SAME_VALUE = (*QDQ, "Identity")
_GLOBAL_POOLS = {"GlobalAveragePool": "mean", "GlobalMaxPool": "max"}
_REDUCTIONS = {"ReduceMean": "mean", "ReduceMax": "max"}
_POOLS = {"AveragePool": "mean", "MaxPool": "max"}
POOLING = {**_GLOBAL_POOLS, **_REDUCTIONS, **_POOLS}
_MOST_NODES = 64


@dataclass
class Walk:
    """What lies between a gate and its features.

    Attributes:
        nodes: everything passed, the gate's own node first.
        reductions: nodes that reduce the features.
        direct: nodes that read the features as they are.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    reductions: list[onnx.NodeProto] = field(default_factory=list)
    direct: list[onnx.NodeProto] = field(default_factory=list)


def walk_back(index: GraphIndex, gate: onnx.NodeProto, features: str) -> Walk | None:
    """From the gate to the features; None if any path ends elsewhere, or none reduces them."""
    found, seen = Walk([gate]), {gate.output[0]}
    queue = [(name, gate) for name in gate.input]
    while queue:
        name, reader = queue.pop()
        if name == features:
            found.direct.append(reader)
        if name == features or name in seen or not name or index.is_constant(name):
            continue
        node = index.producer.get(name)
        if node is None or len(found.nodes) > _MOST_NODES:
            return None
        seen.add(name)
        found.nodes.append(node)
        if node.op_type in POOLING and _reads(index, node, features):
            found.reductions.append(node)
        elif node.op_type not in ("Shape", "Size"):
            queue += [(n, reader if node.op_type in _SAME_VALUE else node) for n in node.input]
    return found if found.reductions else None


def origin(index: GraphIndex, name: str) -> str:
    """The value behind quantization and identity nodes."""
    node = index.producer.get(name)
    while node is not None and node.op_type in _SAME_VALUE:
        name = node.input[0]
        node = index.producer.get(name)
    return name


def _reads(index: GraphIndex, node: onnx.NodeProto, features: str) -> bool:
    """Whether a reduction reads the features, directly or after a reshape such as ``x.view(b, c, -1)``."""
    name = origin(index, node.input[0])
    producer = index.producer.get(name)
    if name != features and producer is not None and producer.op_type in ("Reshape", "Flatten"):
        name = origin(index, producer.input[0])
    return name == features


def reduced(index: GraphIndex, node: onnx.NodeProto, features: str) -> str:
    """What a reduction of the features reduces: ``space``, ``channel``, ``height``, ``width`` or ``other``."""
    if node.op_type in _GLOBAL_POOLS:
        return "space"
    if node.op_type in _POOLS:
        return _windowed(index, node)
    axes = attributes(node).get("axes")
    if axes is None and len(node.input) > 1:
        value = index.constant(node.input[1])
        axes = None if value is None else value.tolist()
    if axes is None:
        return "other"
    if origin(index, node.input[0]) != features:  # as in ``x.view(b, c, -1)``: one axis holds all of space
        return {(1,): "channel", (-2,): "channel", (2,): "space", (-1,): "space"}.get(tuple(axes), "other")
    spellings = {
        "channel": ([1], [-3]),
        "space": ([2, 3], [-2, -1], [-1, 2]),
        "height": ([2], [-2]),
        "width": ([3], [-1]),
    }
    return next((what for what, known in spellings.items() if sorted(axes) in known), "other")


def _windowed(index: GraphIndex, pool: onnx.NodeProto) -> str:
    """What a pool with a window reduces; where the graph does not tell the size, any window but a row or column."""
    window = list(attributes(pool).get("kernel_shape", []))
    size = list((index.shape(pool.input[0]) or ())[2:])
    if not size or not all(isinstance(n, int) for n in size):
        return "other" if 1 in window else "space"
    known = {"space": size, "height": [size[0], 1], "width": [1, size[-1]]}
    return next((what for what, covers in known.items() if window == covers), "other")
