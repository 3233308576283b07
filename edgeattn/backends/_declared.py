"""What a graph says that its products compute in: its word for a strongly typed network, and a wish elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeattn.graphs import GraphIndex, element_types, macs_by_node

if TYPE_CHECKING:
    import onnx

_LABELS = {1: "fp32", 10: "fp16", 16: "bf16"}  # TensorProto.DataType


def declared(model: onnx.ModelProto) -> dict[str, tuple[int, str]]:
    """Node -> its multiply-accumulates and ``int8`` (both sides dequantized), ``fp16``, ``bf16`` or ``fp32``.

    Nodes without stored weights count nothing.
    """
    index, types = GraphIndex(model), element_types(model)
    macs = macs_by_node(model)
    found = {}
    for node in index.nodes:
        name = node.name or next(iter(node.output), "")
        if macs.get(name):
            found[name] = (macs[name], _label(index, types, node))
    return found


def _label(index: GraphIndex, types: dict[str, int], node: onnx.NodeProto) -> str:
    sources = [index.producer.get(name) for name in node.input[:2]]
    if all(source is not None and source.op_type == "DequantizeLinear" for source in sources):
        return "int8"
    known = (types.get(name) for name in (*node.output[:1], *node.input[:2]))
    return next((_LABELS[kind] for kind in known if kind in _LABELS), "fp32")
