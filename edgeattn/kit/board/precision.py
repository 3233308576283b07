"""What the engine really computes in, read back from TensorRT's engine inspector and held beside what was asked.

The inspector names each layer after the ONNX nodes it does, and gives the types of its tensors and weights. A node with
multiply-accumulates that no layer names counts as what the graph says of it where the network is strongly typed, which
binds the builder; INT8 never does, since whether Q and DQ were fused into an INT8 kernel is what is to be found out.
"""

from __future__ import annotations

import re
from typing import Any, Iterator, Mapping, Sequence

_WORDS: dict[str, tuple[str, ...]] = {
    "int8": ("int8", "i8i8"),
    "bf16": ("bf16", "bfloat16"),
    "fp16": ("half", "fp16", "f16"),
    "fp32": ("float", "fp32", "f32"),
}
_UNNAMED = "node_of_"  # what parsers put before the output of a node that has no name of its own
_HALVES = ("fp16", "bf16")
_LARGEST = 5


def effective(
    layers: Mapping[str, Sequence[Any]], graphs: Mapping[str, Any], requested: str, typed: bool
) -> dict[str, Any]:
    """The report's ``precision`` section.

    Args:
        layers: what the inspector told, by graph. graphs: those of kit.json, whose ``products`` are node ->
            ``[multiply-accumulates, type]``. requested: what was asked for. typed: the networks are strongly typed.
    """
    ran: dict[str, int] = {}
    elsewhere: list[tuple[int, str, str]] = []
    detail: dict[str, Any] = {}
    for name, graph in graphs.items():
        known = dict(_named(layers[name]))
        detail[name] = {"layers": len(layers[name]), "named": 0}
        for node, (count, declared) in graph["products"].items():
            found = known.get(node, declared if typed and declared != "int8" else "unknown")
            detail[name]["named"] += node in known
            ran[found] = ran.get(found, 0) + count
            if found != requested and (requested != "fp32" or found in _HALVES):
                elsewhere.append((count, node, found))
    work = sum(ran.values())
    shares = {precision: count / work for precision, count in ran.items()} if work else {}
    return {
        "requested": requested,
        "effective": _label(shares),
        "int8_share": shares.get("int8", 0.0) if work else None,
        "share": _share(requested, shares) if work and "unknown" not in shares else None,
        "macs_in": ran,
        "elsewhere": [
            {"layer": node, "precision": found, "share": count / work}
            for count, node, found in sorted(elsewhere, reverse=True)[:_LARGEST]
        ],
        "detail": detail,
    }


def _named(layers: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """``(ONNX node, precision)`` for every node that a layer says it does."""
    told = [layer for layer in layers if isinstance(layer, Mapping)]  # names alone: built without details
    # Fused elementwise work also names the product that it follows: that product's own layer has the last word.
    for layer in sorted(told, key=lambda layer: layer.get("LayerType") != "kgen"):
        precision = of_layer(layer)
        nodes = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(layer.get("Metadata", "")))
        nodes += [part.strip() for part in str(layer.get("Name", "")).split(" + ")]
        for node in nodes:
            yield node, precision
            if node.startswith(_UNNAMED):
                yield node[len(_UNNAMED) :], precision


def of_layer(layer: Mapping[str, Any]) -> str:
    """By its weights' type, else its first input's, else its kernel's name."""
    weights = layer.get("Weights")
    inputs = layer.get("Inputs") or [{}]
    first = inputs[0] if isinstance(inputs[0], Mapping) else {}
    told = [
        weights.get("Type", "") if isinstance(weights, Mapping) else "",
        " ".join(str(value) for key, value in first.items() if "Datatype" in key),  # "Format/Datatype", or apart
        layer.get("TacticName", ""),
    ]
    for text in (str(part).lower() for part in told):
        for precision, words in _WORDS.items():
            if any(word in text for word in words):
                return precision
    return "unknown"


def _share(requested: str, shares: Mapping[str, float]) -> float:
    if requested == "fp32":
        return 1.0 - sum(shares.get(half, 0.0) for half in _HALVES)
    return shares.get(requested, 0.0)


def _label(shares: Mapping[str, float]) -> str:
    if not shares:
        return "no weighted operator"
    label, most = max(shares.items(), key=lambda item: item[1])
    if most >= 0.9 and label != "unknown":
        return label
    return " + ".join(sorted(shares))
