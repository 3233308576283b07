"""topk: K below TensorRT's limit of 3,840.

A larger K is refused by the builder, on the device, after minutes.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View

LIMIT = 3840
_SOURCE = "TensorRT operator documentation, TopK: K is at most 3840"


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Stored K above the limit."""
    if not target.engine.nvidia:
        return
    for node in view.nodes:
        if node.standard and node.op == "TopK":
            k = view.constant(node.input(1)) if node.input(1) else node.attributes.get("k")
            size = 0 if k is None else int(max(k.reshape(-1)) if hasattr(k, "reshape") else k)
            if size > LIMIT:
                reason = f"TopK with K = {size}; {target.engine.title} sorts at most {LIMIT}"
                yield Found(node.name, reason, "take fewer, or sort outside the graph", "", _SOURCE, node.module)


CHECK = find
