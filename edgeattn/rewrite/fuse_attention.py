"""fuse_attention: attention in one form becomes the operator Attention.

What: product, scale, additive mask, Softmax and product of 4-D queries, keys and values become one Attention.

Why: TensorRT from 10.14 on, and engines that know no pattern of their own, run it as one kernel that never writes the
T x S weights. On a CPU it may go either way (ONNX Runtime gains a little, OpenVINO loses), hence measured.

Before: Softmax(MatMul(q, Transpose(k)) · s + mask) · v        After: Attention(q, k, v, mask, scale=s)

Safe when: opset 23 or later; as many heads of keys as of queries; at most one mask, added, with a row for every query
(ONNX Runtime does not broadcast it); nothing reads scores or weights. Sums are taken in the engine's order: the same up
to rounding.
Source: ONNX Attention-23; Vaswani et al., "Attention Is All You Need", 2017, equation 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeattn.program import Program
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import f32, graph
from edgeattn.rewrite._scores import Scores, scores_of
from edgeattn.rewrite._view import attr, dims, made_by, used_once

if TYPE_CHECKING:
    import onnx

    from edgeattn.rewrite._build import Build

SINCE = 23


class FuseAttention(GraphRule):
    """Scaled dot-product attention as one operator."""

    name = "fuse_attention"
    exactness = ALLCLOSE
    measured = True
    anchors = ("Softmax",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the Softmax."""
        scores = scores_of(node)
        weighted = node.outputs[0].consumers()[0] if used_once(node.outputs[0]) else None
        if scores is None or weighted is None or weighted.op_type != "MatMul":
            return None
        if view.opset < SINCE:
            reason = f"Attention exists from opset {SINCE} on, this graph has {view.opset}"
            return miss(reason, node, 1)
        q, keys = scores.product.inputs
        v = weighted.inputs[1]
        turned = made_by(keys, "Transpose")
        if weighted.inputs[0] is not node.outputs[0] or q is None or v is None or turned is None:
            return miss("its keys are not transposed right before the product", scores.product, 2)
        answer = _unfit(scores, q, v) or _unread(scores)
        if answer is not None:
            return answer
        mask = _mask(scores)
        if isinstance(mask, Miss):
            return mask
        perm = list(attr(turned, "perm") or reversed(range(4)))
        nodes = (turned, scores.product, *reversed(scores.nodes), node, weighted)
        scale = math.prod((s.factor for s in scores.scales), start=1.0)
        parts = {"q": q, "k": turned.inputs[0], "v": v, "mask": mask, "scale": scale}
        return Match(weighted, nodes, parts | {"perm": [*perm[:2], perm[3], perm[2]]})

    def rewrite(self, match: Match, build: Build) -> None:
        """One Attention, and a Transpose where keys were turned for more than the product."""
        q, k, v, mask, perm = (match.parts[name] for name in ("q", "k", "v", "mask", "perm"))
        if perm != sorted(perm):
            shape = dims(k)
            k = build.op("Transpose", k, shape=None if shape is None else [shape[axis] for axis in perm], perm=perm)
        operands = [q, k, v] if mask is None else [q, k, v, mask]
        old = match.anchor.outputs[0]
        build.replace(old, build.op("Attention", *operands, shape=dims(old), scale=match.parts["scale"]))

    def examples(self) -> list[Program]:
        """Scaled; with a mask that is added; keys that were turned from the projection's order."""
        return as_programs(
            _sample("t = Transpose <perm = [0, 1, 3, 2]> (k)  z = MatMul(q, t)  s = Mul(z, half)"),
            _sample("t = Transpose <perm = [0, 1, 3, 2]> (k)  z = MatMul(q, t)  s = Add(z, mask)", MASK),
            _sample("t = Transpose <perm = [0, 2, 3, 1]> (k)  z = MatMul(q, t)  s = Div(z, half)", keys="batch,7,2,4"),
        )

    def near_misses(self) -> list[Program]:
        """An old opset, keys as they come, a mask of one row, scores that are read elsewhere, a scaled mask."""
        plain = "t = Transpose <perm = [0, 1, 3, 2]> (k)  z = MatMul(q, t)"
        return as_programs(
            _sample(f"{plain}  s = Mul(z, half)", opset=18),
            _sample("z = MatMul(q, k)  s = Mul(z, half)", keys="batch,2,4,7"),
            _sample(f"{plain}  s = Add(z, row)", ", float[batch,1,1,7] row"),
            _sample(f"{plain}  s = Mul(z, half)", outputs=", float[batch,2,5,7] z"),
            _sample(f"{plain}  m = Add(z, mask)  s = Mul(m, half)", MASK),
        )

    def workload(self) -> Program:
        """12 heads of 64 over 128 positions."""
        one = "float[1,12,128,64]"
        head = f"({one} q, {one} k, {one} v) => ({one} y)"
        body = "t = Transpose <perm = [0, 1, 3, 2]> (k)  z = MatMul(q, t)  s = Mul(z, half)"
        return Program({"main": _sample(body, head=head)})


MASK = ", float[batch,1,5,7] mask"


def _sample(
    body: str, inputs: str = "", *, keys: str = "batch,2,7,4", outputs: str = "", opset: int = 23, head: str = ""
) -> onnx.ModelProto:
    fed = f"float[batch,2,5,4] q, float[{keys}] k, float[batch,2,7,4] v{inputs}"
    head = head or f"({fed}) => (float[batch,2,5,4] y{outputs})"
    weights = {"half": f32(0.5)} if "half" in body else {}
    return graph(f"{head} {{ {body}  a = Softmax <axis = 3> (s)  y = MatMul(a, v) }}", opset=opset, **weights)


def _unfit(scores: Scores, q: ir.Value, v: ir.Value) -> Miss | None:
    """Whether the operands' ranks, heads or types are none that the operator takes."""
    product, keys = scores.product, scores.product.inputs[1]
    shapes = [dims(q), dims(keys), dims(v)]
    if any(shape is None or len(shape) != 4 for shape in shapes):
        return miss("queries, keys and values are not of rank 4", product, 3)
    heads = {shape[1] for shape in shapes if shape is not None}
    if len(heads) > 1 or None in heads:
        return miss(f"queries, keys and values have {sorted(map(str, heads))} heads", product, 3)
    if attr(scores.softmax, "axis", -1) not in (-1, 3):
        return miss("its Softmax is not over the keys", scores.softmax, 3)
    if q.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return miss("only float32 and float16 are taken", product, 3)
    return None


def _unread(scores: Scores) -> Miss | None:
    """Whether somebody else reads the scores."""
    if scores.scaled_mask is not None:
        return miss("this scale multiplies the mask too", scores.scaled_mask, 4)
    others = [n for n in scores.nodes if n not in scores.masks and all(n is not s.node for s in scores.scales)]
    if others:
        return miss("it changes the scores' shape", others[0], 4)
    return next((miss("it is read elsewhere too", n, 4) for n in (scores.product, *scores.nodes) if not _once(n)), None)


def _once(node: ir.Node) -> bool:
    return used_once(node.outputs[0])


def _mask(scores: Scores) -> ir.Value | Miss | None:
    """What is added to the scores; None where nothing is."""
    if not scores.masks:
        return None
    mask, path = scores.masks[0], {scores.product, *scores.nodes}
    if len(scores.masks) > 1 or mask.op_type != "Add":
        return miss("its mask is not one that is added", mask, 4)
    added = next((v for v in mask.inputs if v is not None and v.producer() not in path), None)
    shape, whole = dims(added), dims(scores.product.outputs[0])
    if added is None or shape is None or whole is None or len(shape) < 2 or shape[-2:] != whole[-2:] or None in shape:
        return miss(f"its mask {shape} has no row for every query of {whole}", mask, 4)
    return added


RULE = FuseAttention()
