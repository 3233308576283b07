"""The way back from a mask to the features it multiplies, and what has become of their axes on it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgeattn.recognise._axes import Axes, Group, is_channel_mean, step, whole
from edgeattn.recognise._graph import DATA, Graph

if TYPE_CHECKING:
    import onnx

_MOST_NODES = 96
_RANK = 4  # of features whose shape is unknown: an image


@dataclass
class Walk:
    """What lies between a mask and its features.

    Attributes:
        nodes: everything passed, the mask's own node first.
        mask: what the mask is of the features.
        features: the value of the features that is read; of several, the one nearest to their root.
        direct: nodes that read the features whole and do more than move or pool them.
        layers: the layers with constant weights, nearest to the mask first.
        mixed: the features' axes that the first layers mix, None where unknown.
    """

    nodes: list[onnx.NodeProto]
    mask: Axes
    features: str
    direct: list[onnx.NodeProto] = field(default_factory=list)
    layers: list[onnx.NodeProto] = field(default_factory=list)
    mixed: list[Group | None] = field(default_factory=list)


def walk_back(graph: Graph, mask: str, aliases: Sequence[str]) -> Walk | None:
    """From a mask to features, given with what they are a rearrangement of; None if any way ends elsewhere."""
    ends = {name: i for i, name in enumerate(aliases)}
    nodes = _between(graph, mask, ends)
    if not nodes:
        return None
    known = _layouts(graph, aliases)
    walk = Walk(nodes, Axes(None), aliases[-1])
    walk.features = max((n for node in nodes for n in node.input if n in ends), key=ends.__getitem__, default="")
    for node in sorted(nodes, key=graph.place):
        found = step(graph, node, known)
        if found is None:
            return None
        if _reads_whole(node, known) and not found.open:
            walk.direct.append(node)
        elif graph.weight(node) is not None and not is_channel_mean(graph, node):
            walk.mixed.append(_mixes(graph, node, known))
        known.update(dict.fromkeys(node.output, found))
    walk.layers = [n for n in nodes if graph.weight(n) is not None and not is_channel_mean(graph, n)]
    walk.mask = known[mask]
    return walk if walk.features else None


def _between(graph: Graph, mask: str, ends: Collection[str]) -> list[onnx.NodeProto] | None:
    """Every node whose data goes from the ends to the mask; None if other data does, too, or they are too many."""
    found: dict[str, onnx.NodeProto] = {}
    queue = [mask]
    for name in queue:
        node = graph.producer.get(name)
        if node is None or len(found) > _MOST_NODES:
            return None
        if node.output[0] not in found:
            found[node.output[0]] = node
            queue += [n for n in graph.data_inputs(node) if n not in ends]
    return list(found.values())


def _layouts(graph: Graph, aliases: Sequence[str]) -> dict[str, Axes]:
    """What each alias of the features is of their root."""
    root = aliases[-1]
    known = {root: whole(graph.rank(root) or _RANK)}
    for name in aliases[-2::-1]:
        known[name] = step(graph, graph.producer[name], known) or Axes(None)
    return known


def _reads_whole(node: onnx.NodeProto, known: dict[str, Axes]) -> bool:
    return any(known[n].raw for n in node.input if n in known)


def _mixes(graph: Graph, layer: onnx.NodeProto, known: dict[str, Axes]) -> Group | None:
    """Which of the features' axes lie in the dimension that a layer sums over."""
    name = next((n for n in layer.input[:2] if graph.level(n) == DATA), "")
    dims = known[name].dims if name in known else None
    if not dims:
        return None
    at = 1 if layer.op_type == "Conv" else len(dims) - 1 if name == layer.input[0] else len(dims) - 2
    return dims[at] if 0 <= at < len(dims) else None
