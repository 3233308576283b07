"""operators: the engine knows every operator.

The hint names the rewrite that says the same in operators that it does know, where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View

_QUANTIZED = {
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "MatMulInteger",
    "ConvInteger",
}
_INSTEAD = {
    **dict.fromkeys(_QUANTIZED, ("quantize the float model with int8-static: QuantizeLinear and DequantizeLinear", "")),
    "Gelu": ("rewrite it into Erf, or export with --opset 18", ""),
    "LayerNormalization": ("export with --opset 16 or older, which spells it out", ""),
    "Attention": ("export with --opset 18, which spells attention out", ""),
    "Einsum": ("edgeattn rewrite --only lower_einsum", "rewrite:lower_einsum"),
    "RMSNormalization": ("export with --opset 18, which spells it out", ""),
    "RotaryEmbedding": ("export with --opset 18, which spells it out", ""),
    "NonZero": ("use a mask of fixed size instead of positions", ""),
    "Compress": ("use Where with a mask, which keeps the size", ""),
}


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Standard operators that are not in the engine's list."""
    engine = target.engine
    for node in view.nodes:
        if node.standard and node.op not in engine.operators.value:
            hint, mend = _INSTEAD.get(node.op, ("express it in other operators, or run this part elsewhere", ""))
            reason = f"{engine.title} has no {node.op}"
            yield Found(node.name, reason, hint, mend, engine.operators.source, node.module)


CHECK = find
