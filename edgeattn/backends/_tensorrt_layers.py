"""What a TensorRT engine executes, from the list of layers that its builder gives.

``edgeattn`` has no need to open the engine for that, which takes a GPU: with detailed profiling on, the builder logs
the layers that it made, each with types, kernel, and the ONNX nodes that it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from edgeattn.backends import Executed
from edgeattn.backends._common import Given
from edgeattn.graphs import MAC_OPS

if TYPE_CHECKING:
    import onnx

_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<type>.*?), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<constants>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: (?P<tactic>.*?), StreamId: .*?, Metadata: ?(?P<metadata>.*)"
)
_TYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_LABELS = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "Int8": "int8", "FP8": "fp8"}
_GENERATED = "kgen"  # fused elementwise work; a product only where no other layer claims that node


def executed(lines: Sequence[str], model: onnx.ModelProto) -> list[Executed]:
    """The layers in the names of the graph; empty where the builder gave no list."""
    given = Given(model)
    found = [match for line in lines if (match := _LINE.match(line))]
    claimed = {
        node
        for match in found
        if match["type"] != _GENERATED
        for node in _nodes(match, given)
        if given.ops[node] in MAC_OPS
    }
    return [_layer(match, given, claimed) for match in found]


def _nodes(match: re.Match[str], given: Given) -> tuple[str, ...]:
    return given.find(_NODE.findall(match["metadata"]))


def _layer(match: re.Match[str], given: Given, claimed: set[str]) -> Executed:
    nodes, kind = _nodes(match, given), match["type"]
    products = [n for n in nodes if given.ops[n] in MAC_OPS and (kind != _GENERATED or n not in claimed)]
    precision = _label(_TYPE.findall(match["inputs"]) or _TYPE.findall(match["outputs"]))
    role = "product" if products else "quantize" if given.only_quantizes(nodes) else "other"
    stands_for = tuple(dict.fromkeys([*products, *nodes]))
    return Executed(match["name"], kind, role, precision, match["tactic"], 0.0, stands_for)


def _label(types: Iterable[str]) -> str:
    """What a layer computes in: the type of what it reads first."""
    return next((_LABELS[kind] for kind in types if kind in _LABELS), "")


def products(layers: Iterable[Executed]) -> list[tuple[str, str]]:
    """``(node, precision)`` of every product; a layer that does several tells each."""
    return [(node, layer.precision) for layer in layers if layer.role == "product" for node in layer.stands_for[:1]]
