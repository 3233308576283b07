"""loops: Loop and Scan with outputs whose length is known, If with branches of one rank.

TensorRT unrolls nothing: it builds a loop with a trip count, and what is stacked up in it (scan outputs) needs that
count to be a number when the engine is built.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import Node, View

_SOURCE = "onnx-tensorrt docs/operators.md, Loop and If; measured with tensorrt_rtx 1.7.1"
_SPLIT = "split it into a step graph: edgeattn rewrite --also split_loop"


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Scan outputs without a constant trip count, and branches that disagree."""
    if not target.engine.nvidia:
        return
    for node in view.nodes:
        if node.standard and node.op == "Loop":
            yield from (Found(node.name, r, _SPLIT, "", _SOURCE, node.module) for r in _loop(view, node))
        if node.standard and node.op == "If":
            hint = "make both branches give tensors of one rank, or use Where"
            yield from (Found(node.name, r, hint, "", _SOURCE, node.module) for r in _branches(view, node))


def _loop(view: View, node: Node) -> Iterator[str]:
    body = node.attributes["body"]
    carried = len(node.proto.input) - 2
    scans = len(body.output) - 1 - carried
    if scans > 0 and not (node.input(0) and view.stored(node.input(0))):
        yield "a Loop that stacks outputs without a stored trip count"
    for given, kept in zip(list(node.proto.input)[2:], body.output[1 : 1 + carried], strict=False):
        before, after = view.shape_of(given), view.shape_of(kept.name)
        if before is not None and after is not None and _grows(before, after):
            yield f"a Loop whose state '{given}' changes its size from {list(before)} to {list(after)}"


def _grows(before: tuple[int | str, ...], after: tuple[int | str, ...]) -> bool:
    if len(before) != len(after):
        return True
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(before, after, strict=True))


def _branches(view: View, node: Node) -> Iterator[str]:
    if node.input(0) and view.known(node.input(0)):
        return
    sides = [node.attributes[name].output for name in ("then_branch", "else_branch")]
    for one, other in zip(*sides, strict=False):
        ranks = [None if (s := view.shape_of(v.name)) is None else len(s) for v in (one, other)]
        if None not in ranks and ranks[0] != ranks[1]:
            yield f"an If whose branches give ranks {ranks[0]} and {ranks[1]}"


CHECK = find
