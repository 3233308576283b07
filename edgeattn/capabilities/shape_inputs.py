"""shape_inputs: no shape is computed from a float that the caller gives.

TensorRT runs what shapes follow from on the host, in integers: an input that a size, a trip count or a limit depends on
must be INT32 or INT64.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View

_SOURCE = "measured with tensorrt_rtx 1.7.1: a shape tensor must have type Int32 or Int64"
_PLACES = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Loop": (0,),
    "OneHot": (1,),
    "Pad": (1,),
    "Reshape": (1,),
    "Resize": (2, 3),
    "Slice": (1, 2),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}
_SIZES = ("Shape", "Size")


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Float inputs behind what becomes a shape."""
    if not target.engine.nvidia:
        return
    floats = {v.name for v in view.inputs if view.type_of(v.name) in ("float", "float16", "bfloat16", "double")}
    for node in view.nodes:
        for place in _PLACES.get(node.op, ()) if node.standard else ():
            for name in sorted(_behind(view, node.input(place)) & floats):
                reason = f"a size in {node.op} is computed from the float input '{name}'"
                yield Found(node.name, reason, "give it as INT64, or store it", "", _SOURCE, node.module)


def _behind(view: View, name: str) -> set[str]:
    """Values that a value is computed from; what is read of shapes is not followed."""
    found, queue = set[str](), [name] if name else []
    while queue:
        current = queue.pop()
        if current in found or view.known(current):
            continue
        found.add(current)
        node = view.producers.get(current)
        if node is not None and node.op not in _SIZES:
            queue += [n for n in node.proto.input if n]
    return found


CHECK = find
