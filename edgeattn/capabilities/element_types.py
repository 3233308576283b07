"""element_types: the engine computes in every type the graph holds.

Types that are only carried (quantized ones between a quantizer and its reader, UINT8 at the graph's edge) may pass
through operators that move values, not through arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import Node, View, types_of

_MOVERS = """
Cast CastLike Concat Constant ConstantOfShape DequantizeLinear Expand Flatten Gather Identity If Loop QuantizeLinear
Reshape Scan Shape Size Slice Split Squeeze Transpose Unsqueeze
"""
MOVERS = frozenset(_MOVERS.split())
"""Operators that move values and do not compute with them."""


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Values of types that the engine does not have, at the graph's edge and at each node."""
    engine, told = target.engine, set[str]()
    taken = engine.types.value | engine.carried.value
    for value in (*view.inputs, *view.outputs):
        kind = view.type_of(value.name)
        if kind and kind not in taken and value.name not in told:
            told.add(value.name)
            yield _unknown(value.name, kind, target)
    for node in view.nodes:
        types = types_of(view, node)
        measured = types.split(">") if types in engine.taken_types.value.get(node.op, ()) else []
        for name in dict.fromkeys((*node.proto.input, *node.proto.output)):
            kind = view.type_of(name)
            if not kind or name in told or kind in measured:
                continue
            if kind not in taken:
                told.add(name)
                yield _unknown(name, kind, target, node)
            elif kind not in engine.types.value and node.op not in MOVERS:
                told.add(name)
                reason = f"{node.op} computes in {kind.upper()}, which {engine.title} only carries"
                yield Found(node.name, reason, _hint(kind), "", engine.types.source, node.module)


def _unknown(name: str, kind: str, target: Target, node: Node | None = None) -> Found:
    engine = target.engine
    reason = f"'{name}' is {kind.upper()}, a type that {engine.title} does not have"
    where, module = (node.name, node.module) if node else ("", "")
    return Found(where, reason, _hint(kind), "", engine.types.source, module)


def _hint(kind: str) -> str:
    if kind in ("sequence", "optional", "string"):
        return "use tensors of numbers at this place"
    if kind.startswith(("float8", "float4", "int4", "uint4", "int2", "uint2")):
        return "quantize with int8-static, or keep it in float"
    wider = "INT64" if kind.startswith(("int", "uint")) else "FLOAT"
    return f"cast it to {wider} outside the graph, or export with that type"


CHECK = find
