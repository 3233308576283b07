"""What a TensorRT engine executes, in the names of the graph it was built from.

Two sources say the same. TensorRT for RTX logs the layers that it made while it builds, each with types, kernel and the
ONNX nodes that it stands for, so that no GPU is needed; TensorRT's inspector tells them of an open engine, as JSON.
Where neither can be had, a strongly typed graph itself says what its products compute in, and the report says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeattn.backends import Executed
from edgeattn.backends._common import Given
from edgeattn.graphs import MAC_OPS, GraphIndex, element_types

if TYPE_CHECKING:
    import onnx

_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>.*?), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: (?P<tactic>.*?), StreamId: .*?, Metadata: ?(?P<metadata>.*)"
)
_TYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_LABELS = {
    **{"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "Int8": "int8", "FP8": "fp8"},
    **{"FP32": "fp32", "FP16": "fp16", "BF16": "bf16", "INT8": "int8"},
}
_TYPES = {1: "fp32", 10: "fp16", 16: "bf16"}  # TensorProto.DataType
_GENERATED = "kgen"  # fused elementwise work; a product only where no other layer claims that node
_LAYOUT = ("Reformat", "Shuffle", "NoOp")


@dataclass(frozen=True)
class _Told:
    """One layer as its source tells it: ``types`` of what it reads, or else writes."""

    name: str
    kind: str
    types: tuple[str, ...]
    tactic: str
    metadata: str


def executed(lines: Sequence[str], model: onnx.ModelProto) -> list[Executed]:
    """The layers that a builder logged; empty where it gave no list."""
    return _layers([_of_line(match) for line in lines if (match := _LINE.match(line))], model)


def inspected(text: str, model: onnx.ModelProto) -> list[Executed]:
    """The layers that an inspector told as JSON, built with detailed profiling."""
    layers = json.loads(text)["Layers"]
    return _layers([_of_json(layer) for layer in layers if isinstance(layer, dict)], model)


def _of_line(match: re.Match[str]) -> _Told:
    types = _TYPE.findall(match["inputs"]) or _TYPE.findall(match["outputs"])
    return _Told(match["name"], match["type"], tuple(types), match["tactic"], match["metadata"])


def _of_json(layer: Mapping[str, Any]) -> _Told:
    """``Format/Datatype`` holds the type among other words (``Channel major FP16 format``); newer releases part it."""
    ends = layer.get("Inputs") or layer.get("Outputs") or ()
    words = (word for end in ends for word in (end.get("Datatype") or end.get("Format/Datatype", "")).split())
    types = tuple(word for word in words if word in _LABELS)
    return _Told(
        str(layer.get("Name", "")),
        str(layer.get("LayerType", "")),
        types,
        str(layer.get("TacticName", "")),
        str(layer.get("Metadata", "")),
    )


def _layers(told: Sequence[_Told], model: onnx.ModelProto) -> list[Executed]:
    given = Given(model)
    claimed = {node for layer in told if layer.kind != _GENERATED for node in _products_in(layer, given)}
    return [_layer(layer, given, claimed) for layer in told]


def _nodes(layer: _Told, given: Given) -> tuple[str, ...]:
    """The parser calls a node without a name after its first output."""
    told = _NODE.findall(layer.metadata)
    return given.find(name if name in given.ops else name.removeprefix("node_of_") for name in told)


def _products_in(layer: _Told, given: Given) -> Iterator[str]:
    return (node for node in _nodes(layer, given) if given.ops[node] in MAC_OPS)


def _layer(layer: _Told, given: Given, claimed: set[str]) -> Executed:
    nodes = _nodes(layer, given)
    products = [n for n in _products_in(layer, given) if layer.kind != _GENERATED or n not in claimed]
    precision = next((_LABELS[kind] for kind in layer.types if kind in _LABELS), "")
    idle = "quantize" if given.only_quantizes(nodes) else "layout" if layer.kind in _LAYOUT else "other"
    stands_for = tuple(dict.fromkeys([*products, *nodes]))
    return Executed(layer.name, layer.kind, "product" if products else idle, precision, layer.tactic, 0.0, stands_for)


def products(layers: Iterable[Executed], model: onnx.ModelProto) -> list[tuple[str, str]]:
    """``(node, precision)`` of every product, once however many layers do it; a layer that does several tells each."""
    given = Given(model)
    found = (
        (node, layer.precision)
        for layer in layers
        if layer.role == "product"
        for node in layer.stands_for
        if given.ops[node] in MAC_OPS
    )
    return list(dict.fromkeys(found))


def completed(told: Sequence[tuple[str, str]], model: onnx.ModelProto) -> list[tuple[str, str]]:
    """What layers told, and of products that none of them names (inside a recurrence, say) what the graph declares.

    A strongly typed network computes in nothing less; without that they would pass for what the others run in.
    """
    known = {node for node, _ in told}
    return [*told, *((node, precision) for node, precision in declared(model) if node not in known)]


def listed(layers: Iterable[Executed]) -> str:
    """The layers as JSON, for whoever wants to see each."""
    keys = ("node", "op", "role", "precision", "kernel", "stands_for")
    return json.dumps([{key: getattr(layer, key) for key in keys} for layer in layers], indent=1) + "\n"


def declared(model: onnx.ModelProto) -> list[tuple[str, str]]:
    """``(node, precision)`` of every product as a strongly typed graph says: its type, INT8 between two Q/DQ."""
    index, types = GraphIndex(model), element_types(model)

    def unpacked(name: str) -> bool:
        node = index.producer.get(name)
        return node is not None and node.op_type == "DequantizeLinear"

    return [
        (node.name or node.output[0], "int8" if all(map(unpacked, node.input[:2])) else _TYPES.get(kind, "unknown"))
        for node in index.nodes
        if node.op_type in MAC_OPS
        for kind in [types.get(node.input[0], types.get(node.output[0], 0))]
    ]
