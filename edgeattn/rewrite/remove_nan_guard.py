"""remove_nan_guard: attention whose masks are finite needs no second look for NaN.

What: ``Where(IsNaN(a), 0, a)`` behind a Softmax becomes ``a``, where every mask in front of it is a finite number.

Why: PyTorch's exporter writes the guard behind every attention with a bool mask, because rows of -inf give NaN. Two
passes over the T x S weights, and neither TensorRT nor OpenVINO fuses attention through them.

Before: a = Softmax(Where(pad, -1e4, s));  Where(IsNaN(a), 0, a)        After: Softmax(Where(pad, -1e4, s))

Safe when: the scores are finite. Masks of -inf do not count as finite, and neither do those that are fed as numbers:
``clamp_mask``, which runs before, makes the former finite and gives zeros for rows without any valid position itself.
Source: ONNX Softmax; onnxscript pull request 2654, which added the guard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeattn.program import Program
from edgeattn.rewrite._rule import Exactness, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import f32, graph
from edgeattn.rewrite._scores import VIEWS, scores_of
from edgeattn.rewrite._view import const, made_by, scalar, used_once

if TYPE_CHECKING:
    import onnx

    from edgeattn.rewrite._build import Build

SAME_NUMBERS = ("Transpose", "Expand", "Tile", "Slice", "Gather")


class RemoveNanGuard(GraphRule):
    """The guard behind a Softmax that cannot give NaN."""

    name = "remove_nan_guard"
    exactness = Exactness("conditional", condition="queries and keys are finite")
    anchors = ("IsNaN",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the IsNaN."""
        weights = node.inputs[0]
        if weights is None or not used_once(node.outputs[0]):
            return miss("more than one node reads where the NaN are", node, 0)
        guard = node.outputs[0].consumers()[0]
        if guard.op_type != "Where" or guard.inputs[2] is not weights or scalar(guard.inputs[1]) != 0.0:
            return miss(f"what reads it is a {guard.op_type} that does not put zeros in their place", guard, 1)
        softmax = _softmax_behind(weights)
        if softmax is None:
            return miss("it does not guard a Softmax", node, 1)
        scores = scores_of(softmax)
        if scores is None:
            return miss("behind the Softmax lies no product of queries and keys", softmax, 2)
        path = {scores.product, *scores.nodes}
        for mask in scores.masks:
            others = [v for v in mask.inputs[mask.op_type == "Where" :] if v is None or v.producer() not in path]
            if not all(_is_finite(v) for v in others):
                return miss("this mask may hold -inf", mask, 3)
        if guard.outputs[0].is_graph_output():
            return miss("the guard gives a result of the graph its name", guard, 4)
        return Match(guard, (node, guard), {"weights": weights})

    def rewrite(self, match: Match, build: Build) -> None:
        """Readers take the weights as they are."""
        build.replace(match.anchor.outputs[0], match.parts["weights"])

    def examples(self) -> list[Program]:
        """A finite Where, zeros for empty rows between, additive masks of a bool and of a constant, no mask at all."""
        return as_programs(
            _sample("m = Where(pad, low, z)  a = Softmax <axis = 3> (m)"),
            _sample("m = Where(pad, low, z)  w = Softmax <axis = 3> (m)  a = Where(pad, zero, w)"),
            _sample("b = Where(pad, low, zero)  m = Add(z, b)  a = Softmax <axis = 3> (m)"),
            _sample("f = Cast <to = 1> (pad)  b = Mul(f, low)  m = Add(b, z)  a = Softmax <axis = 3> (m)"),
            _sample("m = Add(z, causal)  a = Softmax <axis = 3> (m)"),
            _sample("a = Softmax <axis = 3> (z)"),
        )

    def near_misses(self) -> list[Program]:
        """-inf in a Where, -inf in an additive mask, a fed mask, another filling, a Softmax over no product."""
        return as_programs(
            _sample("m = Where(pad, low, z)  a = Softmax <axis = 3> (m)", low=-np.inf),
            _sample("b = Where(pad, low, zero)  m = Add(z, b)  a = Softmax <axis = 3> (m)", low=-np.inf),
            _sample("m = Add(z, fed)  a = Softmax <axis = 3> (m)", inputs=", float[batch,1,1,5] fed"),
            _sample("a = Softmax <axis = 3> (z)", zero=1.0),
            _sample("r = Relu(z)  a = Softmax <axis = 3> (r)"),
        )

    def workload(self) -> Program:
        """12 heads of 64 over 128 positions."""
        head = "(float[1,12,128,64] q, float[1,12,64,128] k, float[1,12,128,64] v, bool[1,1,1,128] pad)"
        body = "m = Where(pad, low, z)  a = Softmax <axis = 3> (m)"
        return Program({"main": _sample(body, head=f"{head} => (float[1,12,128,64] y)")})


def _sample(body: str, *, low: float = -1e4, zero: float = 0.0, inputs: str = "", head: str = "") -> onnx.ModelProto:
    fed = "float[batch,2,5,4] q, float[batch,2,4,5] k, float[batch,2,5,4] v, bool[batch,1,1,5] pad"
    head = head or f"({fed}{inputs}) => (float[batch,2,5,4] y)"
    weights = {"low": f32(low), "zero": f32(zero)} | (
        {"causal": f32(0.0, -9.0, 0.0, -9.0, 0.0)} if "causal" in body else {}
    )
    return graph(
        f"{head} {{ z = MatMul(q, k)  {body}  n = IsNaN(a)  g = Where(n, zero, a)  y = MatMul(g, v) }}", **weights
    )


def _softmax_behind(weights: ir.Value) -> ir.Node | None:
    """The Softmax, seen through a Where that puts zeros where a mask hides."""
    where = made_by(weights, "Where")
    if where is not None and const(where.inputs[0]) is None:
        kept = [v for v in where.inputs[1:] if const(v) is None]
        zeros = [v for v in where.inputs[1:] if scalar(v) == 0.0]
        weights = kept[0] if len(kept) == len(zeros) == 1 and kept[0] is not None else weights
    return made_by(weights, "Softmax")


def _is_finite(value: ir.Value | None, left: int = 8) -> bool:
    """Whether what is added to scores, or put in their place, is built of constants far from overflow."""
    array = const(value)
    if array is not None:
        return array.dtype.kind in "biu" or bool((np.abs(array) <= np.finfo(array.dtype).max / 2).all())
    node = made_by(value, "Where", "Cast", "Mul", "Sub", *VIEWS, *SAME_NUMBERS)
    if node is None or left == 0:
        return False
    if node.op_type == "Cast":
        return node.inputs[0] is not None and node.inputs[0].dtype in (ir.DataType.BOOL, ir.DataType.INT64)
    if node.op_type in ("Where", "Mul", "Sub"):
        return all(_is_finite(v, left - 1) for v in node.inputs[node.op_type == "Where" :])
    return _is_finite(node.inputs[0], left - 1)


RULE = RemoveNanGuard()
