"""quantization: the QuantizeLinear and DequantizeLinear are in the form the engine runs in integers.

Symmetric INT8 with zero point 0, a scale a channel on weights alone, biases in float: what every engine here takes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import Node, View


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Types, zero points and scales of each quantizer."""
    if not target.engine.quantized.value:
        return
    for node in view.nodes:
        if node.standard and node.op in ("QuantizeLinear", "DequantizeLinear"):
            yield from _judged(view, node, target)
        elif target.engine.nvidia:
            yield from _stored(view, node, target)


def _again(target: Target) -> str:
    return f"quantize the float model with: {target.quantizing}"


def _judged(view: View, node: Node, target: Target) -> Iterator[Found]:
    engine = target.engine
    for reason in _reasons(view, node, target):
        yield Found(node.name, reason, _again(target), "", engine.quantized.source, node.module)


def _stored(view: View, node: Node, target: Target) -> Iterator[Found]:
    """Stored quantized numbers that something else than a DequantizeLinear reads."""
    for name in node.proto.input:
        kind = view.type_of(name)
        if kind in target.engine.quantized.value and name in view.initializers:
            reason = f"{node.op} reads stored {kind.upper()} numbers, which only a DequantizeLinear may"
            yield Found(node.name, reason, _again(target), "", target.engine.quantized.source, node.module)


def _reasons(view: View, node: Node, target: Target) -> Iterator[str]:
    engine = target.engine
    packed = view.type_of(node.proto.output[0] if node.op == "QuantizeLinear" else node.input(0))
    if packed and packed not in engine.quantized.value:
        bias = packed == "int32" and view.stored(node.input(0))
        what = "a bias stored in INT32" if bias else packed.upper()
        verb = "quantizes to" if node.op == "QuantizeLinear" else "unpacks"
        yield f"{node.op} {verb} {what}; {engine.title} takes {_listed(engine.quantized.value)}"
        return
    zero = view.constant(node.input(2)) if node.input(2) else None
    if zero is not None and not engine.zero_points.value and np.any(np.asarray(zero, np.float32)):
        yield f"a zero point that is not 0; {engine.title} takes symmetric quantization only"
    scale = view.constant(node.input(1))
    if scale is not None and (not np.all(np.isfinite(np.asarray(scale, np.float64))) or np.any(scale <= 0)):
        yield "a scale that is not a positive number"
    shape = view.shape_of(node.input(1))
    if engine.nvidia and node.op == "QuantizeLinear" and shape and shape != (1,) and not view.known(node.input(0)):
        yield f"a scale for each channel of an activation; {engine.title} takes one a tensor there"


def _listed(kinds: frozenset[str]) -> str:
    return ", ".join(sorted(kind.upper() for kind in kinds))


CHECK = find
