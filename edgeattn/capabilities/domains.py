"""domains: every operator is a standard one.

A vendor's operator is a custom one everywhere else; functions that travel in the model are inlined first.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Nodes outside ``ai.onnx``, and functions where the engine reads none."""
    if view.functions and target.engine.family == "openvino":
        reason = f"keeps the function '{view.functions[0]}' beside the graph, which {target.engine.title} does not read"
        yield Found(
            "",
            reason,
            "edgeattn rewrite, which inlines it",
            "rewrite:fold_constants",
            "measured with openvino 2026.4.1",
        )
    for node in view.nodes:
        if not node.standard:
            reason = f"'{node.proto.domain}::{node.op}' is no operator of the ONNX standard"
            hint = "export again without vendor operators (ONNX Runtime's optimiser: at most BASIC)"
            yield Found(node.name, reason, hint, "", "ONNX operator specification", node.module)


CHECK = find
