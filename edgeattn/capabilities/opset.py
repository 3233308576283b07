"""opset: the version of the standard domain is one the engine's parser knows.

A parser refuses, or worse misreads, operators of an opset that came after it.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """The graph's opset against the engine's range."""
    engine = target.engine
    least, newest = engine.opsets.value
    if engine.ir.value and view.model.ir_version > engine.ir.value:
        reason = f"file format (IR) {view.model.ir_version}; {engine.title} reads up to {engine.ir.value}"
        yield Found("", reason, "export it with an older onnx package", "", engine.ir.source)
    if not any(node.standard for node in view.nodes) or least <= view.opset <= newest:
        return
    reason = f"opset {view.opset}; {engine.title} reads {least} to {newest}"
    if view.opset > newest >= 17:
        hint = f"export with --opset {max(17, min(newest, 20))}, or convert: edgeattn doctor --fix"
        yield Found("", reason, hint, f"opset:{newest}", engine.opsets.source)
    else:
        yield Found("", reason, "export it again with --opset 18", "", engine.opsets.source)


CHECK = find
