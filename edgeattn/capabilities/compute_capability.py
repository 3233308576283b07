"""compute_capability: the GPU has arithmetic for the types in the graph.

BF16 begins with Ampere (8.0), FP8 with Ada (8.9), FP4 with Blackwell; TensorRT for RTX has no FP32 matrix product on
Turing (7.5), but convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import Node, View

_PRODUCTS = frozenset({"Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"})
_FULL = ("float", "double")  # DOUBLE is computed in FLOAT


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Types and FP32 products by compute capability."""
    missing = target.engine.missing
    for capability in target.capabilities:
        lacks = missing.value.get(capability)
        if lacks is None:
            continue
        for node in view.nodes:
            kinds = {view.type_of(name) for name in (*node.proto.input, *node.proto.output)} - {""}
            for kind in sorted(kinds & lacks):
                reason = f"{node.op} is in {kind.upper()}, which {capability} cannot compute"
                yield Found(node.name, reason, "use FP16, or another GPU", "", missing.source, node.module)
            if "float product" in lacks and _multiplies(node) and view.type_of(node.proto.output[0]) in _FULL:
                reason = f"an FP32 {node.op}, which {capability} has no kernel for"
                hint = "edgeattn quantize --scheme fp16"
                yield Found(node.name, reason, hint, "scheme:fp16", missing.source, node.module)


def _multiplies(node: Node) -> bool:
    """Whether a node multiplies matrices; an Einsum of one operand only adds up or transposes."""
    return node.op in _PRODUCTS and not (node.op == "Einsum" and len(node.proto.input) == 1)


CHECK = find
