"""Layers that go to INT8 or to float together, in the names a user knows.

Layers that read the same value share its quantizer: to spare one of them changes nothing about the noise that the value
brings to the others. So do layers that share a weight, which is stored once, and those of one attention block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeattn.graphs import macs_by_node
from edgeattn.origin import module_of
from edgeattn.quantize._plan import WEIGHTED

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Program
    from edgeattn.quantize._plan import Plan


@dataclass(frozen=True)
class Layer:
    """One weighted node: the graph it is in, its first output (which is unique there), and what a user calls it."""

    graph: str
    output: str
    name: str


@dataclass(frozen=True)
class Group:
    """Layers that are quantized together; ``share`` is theirs of the program's multiply-accumulates."""

    layers: tuple[Layer, ...]
    share: float

    @property
    def key(self) -> str:
        """Unique in a program, and the same in every run."""
        return f"{self.layers[0].graph}/{self.layers[0].output}"

    @property
    def name(self) -> str:
        """The layers' names, as a person reads them."""
        return ", ".join(layer.name for layer in self.layers)


def groups(program: Program, plans: Mapping[str, Plan]) -> tuple[Group, ...]:
    """The groups of all layers that the plans have in INT8, in graph order."""
    macs = {graph: macs_by_node(model) for graph, model in program.graphs.items()}
    total = sum(sum(counts.values()) for counts in macs.values()) or 1
    found = []
    for graph, model in program.graphs.items():
        nodes = list(_quantized(model, plans[graph]))
        names = _names(nodes)
        for members in _joined(nodes, plans[graph]):
            layers = tuple(Layer(graph, node.output[0], names[node.output[0]]) for node in members)
            work = sum(macs[graph].get(node.name or node.output[0], 0) for node in members)
            found.append(Group(layers, work / total))
    return tuple(found)


def _quantized(model: onnx.ModelProto, plan: Plan) -> Iterator[onnx.NodeProto]:
    for node in model.graph.node:
        if (
            node.op_type in WEIGHTED
            and node.input[1] in plan.weights
            and (node.name or node.output[0]) not in plan.kept
        ):
            yield node


def _names(nodes: Iterable[onnx.NodeProto]) -> dict[str, str]:
    """Output -> module, with the node's name behind it where a module has several layers; else the node's name."""
    modules = {node.output[0]: module_of(node) for node in nodes}
    counts = Counter(modules.values())
    own = {node.output[0]: node.name or node.output[0] for node in nodes}
    return {
        output: own[output] if not module else module if counts[module] == 1 else f"{module} ({own[output]})"
        for output, module in modules.items()
    }


def _joined(nodes: Iterable[onnx.NodeProto], plan: Plan) -> list[list[onnx.NodeProto]]:
    """Nodes with a value, a weight or an attention block in common, in order of their first."""
    blocks = {output: attention.gate for attention in plan.attention for output in attention.nodes}
    leader: dict[tuple[str, str], tuple[str, str]] = {}

    def lead(tie: tuple[str, str]) -> tuple[str, str]:
        while leader.setdefault(tie, tie) != tie:
            tie = leader[tie]
        return tie

    nodes = list(nodes)
    for node in nodes:
        value = lead(("value", node.input[0]))
        leader[lead(("weight", node.input[1]))] = value
        if node.output[0] in blocks:
            leader[lead(("attention", blocks[node.output[0]]))] = lead(value)
    found: dict[tuple[str, str], list[onnx.NodeProto]] = {}
    for node in nodes:
        found.setdefault(lead(("value", node.input[0])), []).append(node)
    return list(found.values())
