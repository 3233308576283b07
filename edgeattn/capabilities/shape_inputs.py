"""shape_inputs: no shape is computed from a float that the caller gives.

TensorRT runs what shapes follow from on the host, in integers: an input that a size, a trip count or a limit depends on
must be INT32 or INT64.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._sizes import SIZED, behind
from edgeattn.capabilities._view import View

_SOURCE = "measured with tensorrt_rtx 1.7.1: a shape tensor must have type Int32 or Int64"


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Float inputs behind what becomes a shape."""
    if not target.engine.nvidia:
        return
    floats = {v.name for v in view.inputs if view.type_of(v.name) in ("float", "float16", "bfloat16", "double")}
    for node in view.nodes:
        for place in SIZED.get(node.op, ()) if node.standard else ():
            for name in sorted(behind(view, node.input(place)) & floats):
                reason = f"a size in {node.op} is computed from the float input '{name}'"
                yield Found(node.name, reason, "give it as INT64, or store it", "", _SOURCE, node.module)


CHECK = find
