"""compute_capability: the GPU has arithmetic for the types in the graph.

BF16 begins with Ampere (8.0), FP8 with Ada (8.9), FP4 with Blackwell; TensorRT for RTX has no FP32 matrix product on
Turing (7.5).
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN", "Attention"})


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
            if "float product" in lacks and node.op in _PRODUCTS and view.type_of(node.proto.output[0]) == "float":
                reason = f"an FP32 {node.op}, which {capability} has no kernel for"
                hint = "edgeattn quantize --scheme fp16"
                yield Found(node.name, reason, hint, "scheme:fp16", missing.source, node.module)


CHECK = find
