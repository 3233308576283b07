"""Which inputs of operators become shapes, and what they are computed from."""

from __future__ import annotations

from edgeattn.capabilities._view import View

SIZED = {
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
"""Operator -> the places of inputs that say how large its output is."""
_READ_SHAPES = ("Shape", "Size")


def behind(view: View, name: str) -> set[str]:
    """Values that a value is computed from; what is read of shapes is not followed."""
    found, queue = set[str](), [name] if name else []
    while queue:
        current = queue.pop()
        if current in found or view.known(current):
            continue
        found.add(current)
        node = view.producers.get(current)
        if node is not None and node.op not in _READ_SHAPES:
            queue += [n for n in node.proto.input if n]
    return found
