"""operators: the engine knows every operator.

The hint names the rewrite that says the same in operators that it does know, where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View
from edgeattn.respell import expandable

_QUANTIZED = {
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "MatMulInteger",
    "ConvInteger",
}
_INSTEAD = {
    **dict.fromkeys(_QUANTIZED, "quantize the float model with int8-static: QuantizeLinear and DequantizeLinear"),
    "NonZero": "use a mask of fixed size instead of positions",
    "Compress": "use Where with a mask, which keeps the size",
}
_RULES = {"Einsum": "lower_einsum"}


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Standard operators that are not in the engine's list."""
    engine = target.engine
    for node in view.nodes:
        if node.standard and node.op not in engine.operators.value:
            hint, mend = _instead(node.op, view.opset)
            reason = f"{engine.title} has no {node.op}"
            yield Found(node.name, reason, hint, mend, engine.operators.source, node.module)


def _instead(op: str, opset: int) -> tuple[str, str]:
    """A hint and a mend for an operator that is not there."""
    if op in _INSTEAD:
        return _INSTEAD[op], ""
    if op in _RULES:
        return f"edgeattn rewrite --only {_RULES[op]}", f"rewrite:{_RULES[op]}"
    if expandable(op, opset):
        return "spell it out as ONNX defines it: edgeattn doctor --fix", f"expand:{op}"
    return "express it in other operators, or run this part elsewhere", ""


CHECK = find
