"""domains: every operator is a standard one.

A vendor's operator is a custom one everywhere else; functions that travel in the model are inlined first.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Nodes outside ``ai.onnx``."""
    for node in view.nodes:
        if not node.standard:
            reason = f"'{node.proto.domain}::{node.op}' is no operator of the ONNX standard"
            hint = "export again without vendor operators (ONNX Runtime's optimiser: at most BASIC)"
            yield Found(node.name, reason, hint, "", "ONNX operator specification", node.module)


CHECK = find
