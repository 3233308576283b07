"""loops: Loop and Scan with outputs whose length is known, If with branches of one rank.

TensorRT unrolls nothing: it builds a loop with a trip count, and what is stacked up in it (scan outputs) needs that
count to be a number when the engine is built.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._sizes import SIZED, behind
from edgeattn.capabilities._view import Dims, Node, View

if TYPE_CHECKING:
    import onnx

_SOURCE = "onnx-tensorrt docs/operators.md, Loop and If; measured with tensorrt_rtx 1.7.1"
_SPLIT = "split it into a step graph: edgeattn rewrite --also split_loop"


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Scan outputs without a constant trip count, and branches that disagree."""
    engine = target.engine
    if engine.family == "onnxruntime":
        return
    for node in view.nodes:
        if node.standard and node.op == "Loop" and engine.nvidia:
            yield from (
                Found(node.name, r, _SPLIT, "", _SOURCE, node.module)
                for r in _loop(view, node, target.engine.family == "tensorrt-rtx")
            )
        if node.standard and node.op == "If":
            hint = "make both branches give tensors of one rank, or use Where"
            yield from (Found(node.name, r, hint, "", _SOURCE, node.module) for r in _branches(view, node))


def _loop(view: View, node: Node, rtx: bool) -> Iterator[str]:
    body = node.attributes["body"]
    carried = len(node.proto.input) - 2
    scans = len(body.output) - 1 - carried
    counted = bool(node.input(0)) and (rtx or view.stored(node.input(0)))
    if scans > 0 and not counted:
        yield f"a Loop that stacks outputs without a {'' if rtx else 'stored '}trip count"
    if sized := _sized_by_step(view, body):
        yield f"a Loop in which the sizes of {sized} depend on the step"
    after = _once_around(view, node)
    for given, kept in zip(list(node.proto.input)[2:], body.output[1 : 1 + carried], strict=False):
        before, came = view.shape_of(given), after.get(kept.name)
        if before is not None and came is not None and _grows(before, came):
            yield f"a Loop whose state '{given}' changes its size from {list(before)} to {list(came)}"


def _sized_by_step(view: View, body: onnx.GraphProto) -> str:
    """An operator of a body whose output's size follows from the number of the step; empty where none does."""
    step = body.input[0].name
    for child in body.node:
        for place in SIZED.get(child.op_type, ()):
            if place < len(child.input) and step in behind(view, child.input[place]):
                return str(child.op_type)
    return ""


def _once_around(view: View, node: Node) -> dict[str, Dims]:
    """Shapes of the body's outputs when its states come in at the sizes that they start with."""
    import onnx

    body = onnx.GraphProto()
    body.CopyFrom(node.attributes["body"])
    for value, name in zip(body.input[2:], list(node.proto.input)[2:], strict=False):
        shape, kind = view.shape_of(name), value.type.tensor_type.elem_type
        if shape is not None and kind:
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, kind, shape))
    for value in body.output:
        value.type.tensor_type.ClearField("shape")
    outer = {name for n in body.node for name in n.input} - {v.name for v in body.input}
    for name in sorted(outer & set(view.initializers)):
        body.initializer.append(view.initializers[name])
    model = onnx.helper.make_model(body, opset_imports=view.model.opset_import)
    return View("body", model).shapes


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
