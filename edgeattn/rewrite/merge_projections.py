"""merge_projections: several constant products of one input become one, and a Split.

What: MatMuls or Gemms that read the same value and hold constant weights, such as those of queries, keys and values,
or the gate and the rise of a gated feed-forward network, become one MatMul with the weights side by side. Biases go
side by side too; the Split hands every reader its columns.

Why: one launch instead of three, on devices where launching costs more than multiplying. On a CPU it may go either way,
hence measured.

Before: MatMul(x, W_q) + b_q;  MatMul(x, W_k) + b_k;  MatMul(x, W_v) + b_v
After:  q, k, v = Split(MatMul(x, [W_q W_k W_v]) + [b_q b_k b_v])

Safe when: weights are 2-D constants that nobody else reads, of the same type. Every column is the same
sum of the same products: equal up to the engine's blocking.
Source: Megatron-LM's and TensorRT's packed projections (one matrix for queries, keys and values).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.program import Program
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph
from edgeattn.rewrite._view import attr, const, dims, used_once

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build


@dataclass(frozen=True)
class Linear:
    """One product with a constant matrix, and its bias.

    Attributes:
        matmul, add: the nodes. weight: ``(in, out)``. bias: ``(out,)`` or None. out: what others read.
    """

    matmul: ir.Node
    add: ir.Node | None
    weight: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any] | None
    out: ir.Value


class MergeProjections(GraphRule):
    """Products of one input, side by side."""

    name = "merge_projections"
    exactness = ALLCLOSE
    measured = True
    anchors = ("MatMul", "Gemm")
    opsets = (13, 26)  # Split with its sizes as an input

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the first of them, which speaks for all."""
        x = node.inputs[0]
        if x is None or const(x) is not None or _linear(node) is None:
            return None
        readers = [r for r in dict.fromkeys(x.consumers()) if r.op_type == node.op_type and r.graph is node.graph]
        found = [linear for r in readers if r.inputs[0] is x and (linear := _linear(r)) is not None]
        together = [linear for linear in found if isinstance(linear, Linear) and _is_read(linear.out)]
        if len(found) < 2:
            return None
        if len(together) < 2:
            return next((answer for answer in found if isinstance(answer, Miss)), None)
        places = view.places()
        if any(linear.matmul not in places for linear in together):
            return miss("one of them was made a moment ago", node, 2)  # the next sweep knows where it stands
        in_order = sorted(together, key=lambda linear: places[linear.matmul])
        if in_order[0].matmul is not node:
            return None
        if len({(linear.weight.dtype, linear.weight.shape[0]) for linear in together}) > 1:
            return miss("their weights are of different types", node, 3)
        nodes = [n for linear in in_order for n in (linear.matmul, linear.add) if n is not None]
        return Match(node, tuple(nodes), {"together": in_order, "x": x})

    def rewrite(self, match: Match, build: Build) -> None:
        """One MatMul or Gemm, one Split."""
        together: list[Linear] = match.parts["together"]
        x: ir.Value = match.parts["x"]
        widths = [linear.weight.shape[1] for linear in together]
        known = dims(together[0].out)
        lead = None if known is None else known[:-1]
        stem = "_".join(str(v.name) for v in (linear.matmul.inputs[1] for linear in together) if v is not None)
        weight = build.const(f"{stem}_merged", np.concatenate([linear.weight for linear in together], 1))
        operands = [x, weight]
        if any(linear.bias is not None for linear in together):
            biases = [_bias_or_zeros(linear) for linear in together]
            operands.append(build.const(f"{stem}_merged_bias", np.concatenate(biases)))
        shape = None if lead is None else (*lead, sum(widths))
        if match.anchor.op_type == "Gemm":
            merged = build.op("Gemm", *operands, shape=shape)
        else:
            merged = build.op("MatMul", *operands[:2], shape=shape)
            merged = build.op("Add", merged, operands[2], shape=shape) if operands[2:] else merged
        sizes = build.const("merged_widths", np.array(widths, np.int64))
        shapes = [None if lead is None else (*lead, width) for width in widths]
        for linear, part in zip(together, build.ops("Split", merged, sizes, shapes=shapes, axis=-1), strict=True):
            build.replace(linear.out, part)

    def examples(self) -> list[Program]:
        """Queries, keys and values with biases; two without; one with and one without; Gemms."""
        return as_programs(
            _sample(
                """q = MatMul(x, wq)  a = Add(q, bq)  k = MatMul(x, wk)  b = Add(bk, k)
                v = MatMul(x, wv)  c = Add(v, bv)"""
            ),
            _sample("a = MatMul(x, wq)  b = MatMul(x, wk)  c = Relu(x)"),
            _sample("q = MatMul(x, wq)  a = Add(q, bq)  b = MatMul(x, wk)  c = Relu(x)"),
            _sample("a = Gemm <transB = 1, alpha = 0.5> (x, wt, bq)  b = Gemm(x, wk)  c = Tanh(x)", lead="batch"),
        )

    def near_misses(self) -> list[Program]:
        """Weights that two products share; weights that are read elsewhere; a fed weight beside."""
        return as_programs(
            _sample("a = MatMul(x, wq)  b = MatMul(x, wq)  c = Relu(x)"),
            _sample(
                "a = MatMul(x, wq)  b = MatMul(x, wk)  u = Relu(wk)  v = Relu(wq)  w = Add(u, v)  c = MatMul(x, w)"
            ),
        )

    def workload(self) -> Program:
        """BERT base's queries, keys and values: 128 positions of width 768."""
        return Program({"main": _packed(128, 768)})


def _sample(body: str, *, lead: str = "batch,5") -> onnx.ModelProto:
    widths: dict[str, Any] = {
        "wq": (8, 8),
        "wt": (8, 8),
        "wk": (8, 8),
        "wv": (8, 8),
        "bq": (8,),
        "bk": (8,),
        "bv": (8,),
    }
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    head = f"(float[{lead},8] x) => (float[{lead},8] a, float[{lead},8] b, float[{lead},8] c)"
    return graph(f"{head} {{ {body} }}", **{n: w for n, w in widths.items() if n in words})


def _packed(length: int, width: int) -> onnx.ModelProto:
    square, row = (width, width), (width,)
    return graph(
        f"""(float[1,{length},{width}] x) => (float[1,{length},{width}] y) {{
            q = MatMul(x, wq)  a = Add(q, bq)  k = MatMul(x, wk)  b = Add(k, bk)  v = MatMul(x, wv)  c = Add(v, bv)
            d = Mul(a, b)  y = Add(d, c) }}""",
        wq=square,
        wk=square,
        wv=square,
        bq=row,
        bk=row,
        bv=row,
    )


def _linear(node: ir.Node) -> Linear | Miss | None:
    """``node`` as a product with a constant matrix; a Miss where its weight is read elsewhere too."""
    weight = const(node.inputs[1])
    if weight is None or weight.ndim != 2 or node.inputs[1] is None:
        return None
    if len(node.inputs[1].uses()) > 1:
        return miss("its weight is read elsewhere too", node, 2)
    return _gemm(node, weight) if node.op_type == "Gemm" else _matmul(node, weight)


def _matmul(node: ir.Node, weight: np.ndarray[Any, Any]) -> Linear:
    out = node.outputs[0]
    add = out.consumers()[0] if used_once(out) else None
    if add is not None and add.op_type == "Add" and add.domain == "":
        bias = const(next((v for v in add.inputs if v is not out), None))
        if bias is not None and bias.shape == weight.shape[1:]:
            return Linear(node, add, weight, bias, add.outputs[0])
    return Linear(node, None, weight, None, out)


def _gemm(node: ir.Node, weight: np.ndarray[Any, Any]) -> Linear | Miss | None:
    if attr(node, "transA", 0):
        return None
    weight = (weight.T if attr(node, "transB", 0) else weight) * weight.dtype.type(attr(node, "alpha", 1.0))
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return Linear(node, None, weight, None, node.outputs[0])
    bias = const(node.inputs[2])
    if bias is None or bias.size not in (1, weight.shape[1]):
        return miss("its bias is no constant row", node, 2)
    row = np.broadcast_to(bias.reshape(-1), weight.shape[1:]) * bias.dtype.type(attr(node, "beta", 1.0))
    return Linear(node, None, weight, row, node.outputs[0])


def _is_read(value: ir.Value) -> bool:
    return value.is_graph_output() or bool(value.uses())


def _bias_or_zeros(linear: Linear) -> np.ndarray[Any, Any]:
    return np.zeros(linear.weight.shape[1], linear.weight.dtype) if linear.bias is None else linear.bias


RULE = MergeProjections()
