"""fold_attention_scale: the 1/√d of attention goes into the weights that make the queries.

What: every multiplication of queries, keys or scores by a number, such as the two by d^(-1/4) that exporters write, or
a division behind the product, goes into the weight and bias of the query projection. Where queries are not made by one
constant projection, one multiplication on the queries is left.

Why: a pass over the T x S scores, or two over queries and keys, costs nothing any more. TensorRT fuses attention only
where the scale lies before the product, OpenVINO only where there is at most one.

Before: Softmax(MatMul(x·W_q + b, kᵀ) / √d)        After: Softmax(MatMul(x·(W_q/√d) + b/√d, kᵀ))

Safe when: all that the queries pass on their way to the product is linear in them (views, Transposes, rotary positions,
splits), they are read nowhere else, the weights are constants that nobody else reads, and the scale does not multiply a
mask too. Multiplication commutes: the same up to rounding, and exactly for heads of 4, 16, 64 or 256.
Source: Vaswani et al., "Attention Is All You Need", 2017, equation 1; TensorRT's documentation of fused attention.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.program import Program
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import f32, graph, i64
from edgeattn.rewrite._scores import Projection, Scale, only_scales, scales_above, scores_of, source_of
from edgeattn.rewrite._view import attr, const, dims, made_by, used_once

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build


class FoldAttentionScale(GraphRule):
    """Scales of attention, in the query weights."""

    name = "fold_attention_scale"
    exactness = ALLCLOSE
    anchors = ("Softmax",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the Softmax; None where it is no attention, or has no scale."""
        scores = scores_of(node)
        if scores is None:
            return None
        product = scores.product
        q, k = product.inputs
        beside = [scales_above(q), scales_above(k)]
        scales = [*scores.scales, *beside[0], *beside[1]]
        if not scales:
            return None
        if scores.scaled_mask is not None:
            return miss("this scale multiplies the mask too", scores.scaled_mask, 1)
        for value, inner in [(n.outputs[0], n) for n in (product, *scores.nodes)]:
            if not used_once(value):
                return miss("its scores are read elsewhere too", inner, 2)
        source = source_of(q)
        answer = _foldable(source, product)
        nodes = [s.node for s in scales]
        if answer is None and source is not None:
            nodes += [source.matmul, *([source.add] if source.add is not None else [])]
            return Match(source.matmul, tuple(nodes), {"scales": scales, "source": source})
        if len(scales) == 1 and len(beside[0]) == 1:
            return answer  # one multiplication on the queries is as good as it gets
        if any(made_by(v, "DequantizeLinear") is not None for v in (q, k)):
            return answer
        return Match(product, (*nodes, product), {"scales": scales, "source": None})

    def rewrite(self, match: Match, build: Build) -> None:
        """Drop every scale, then multiply the weights, or the queries."""
        scales: list[Scale] = match.parts["scales"]
        factor = math.prod(s.factor for s in scales)
        for scale in scales:  # one may feed the next, so its operand is looked up only now
            scaled = next(v for v in scale.node.inputs if v is not None and const(v) is None)
            build.replace(scale.node.outputs[0], scaled)
        source: Projection | None = match.parts["source"]
        if source is not None:
            _fold(source, factor, build)
            return
        product = match.anchor
        q, k = product.inputs
        assert q is not None
        number = build.const("attention_scale", np.array(factor, scales[0].dtype))
        scaled_q = build.op("Mul", q, number, shape=dims(q))
        old = product.outputs[0]
        build.replace(old, build.like(product, scaled_q, k, shape=dims(old)))

    def examples(self) -> list[Program]:
        """A division; two roots and a mask; rotary queries; a Gemm; a packed projection; no projection."""
        turned = """e = Slice(q, zero, one, three)  o = Slice(q, one, two, three)
            ec = Mul(e, cos)  os = Mul(o, sin)  l = Sub(ec, os)  es = Mul(e, sin)  oc = Mul(cos, o)  r = Add(es, oc)
            t = Concat <axis = 3> (l, r)"""
        split = "qkv = MatMul(x, wide)  p, n, m = Split <axis = 2, num_outputs = 3> (qkv)"
        return as_programs(
            _sample("p = MatMul(x, w)  pb = Add(p, b)", "pb", after="s = Div(z, root)"),
            _sample(
                "p = MatMul(x, w)",
                "p",
                before="t = Mul(q, quarter)  u = Mul(quarter, k)",
                product="t, u",
                after="s = Add(z, mask)",
            ),
            _sample("p = MatMul(x, two_wide)", "p", before=turned, product="t, k", heads=4, after="s = Mul(z, half)"),
            _sample(
                "f = Reshape(x, flat)  g = Gemm <transB = 1> (f, w, b)  p = Reshape(g, back)",
                "p",
                after="s = Div(z, root)",
            ),
            _sample(split, "p", after="s = Div(z, root)"),
            _sample("p = Tanh(x)", "p", after="s = Div(z, root)"),
        )

    def near_misses(self) -> list[Program]:
        """A scale on the mask too, scores that leave the graph, shared weights, queries that are scaled already."""
        ready = "t = Mul(q, half)"
        return as_programs(
            _sample("p = MatMul(x, w)", "p", after="m = Add(z, mask)  s = Div(m, root)"),
            _sample("p = MatMul(x, w)", "p", after="s = Div(z, root)", outputs=", float[batch,2,5,5] s"),
            _sample("o = MatMul(x, w)  p = MatMul(o, w)", "p", before=ready, product="t, k"),
            _sample("p = Tanh(x)", "p", before=ready, product="t, k"),
            _sample("p = MatMul(x, w)", "p", before=ready, product="t, k", outputs=", float[batch,5,8] p"),
        )

    def workload(self) -> Program:
        """12 heads of 64 over 128 positions, scaled twice."""
        return Program({"main": _large()})


def _sample(
    queries: str,
    projected: str,
    *,
    before: str = "",
    product: str = "q, k",
    after: str = "",
    outputs: str = "",
    heads: int = 2,
) -> onnx.ModelProto:
    last = "s" if after else "z"
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "root": f32(2.0),
        "quarter": f32(0.5**0.5),
        "half": f32(0.5),
        "mask": f32(0.0, 0.0, 0.0, -9.0, 0.0),
    }
    arrays |= {"cos": rng.standard_normal((1, 1, 5, 1)).astype(np.float32), "sin": f32(0.3)}
    arrays |= {n: i64(i) for i, n in enumerate(("zero", "one", "two", "three"))}
    arrays |= {"w": (8, 8), "b": (8,), "wide": (8, 24), "two_wide": (8, 8), "flat": i64(-1, 8), "back": i64(-1, 5, 8)}
    body = f"""{queries}  v = Reshape({projected}, to_heads)  q = Transpose <perm = [0, 2, 1, 3]> (v)
        {before}  z = MatMul({product})  {after}  y = Softmax <axis = 3> ({last})"""
    arrays["to_heads"] = i64(-1, 5, heads, 8 // heads)
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    head = f"(float[batch,5,8] x, float[batch,{heads},{8 // heads},5] k) => (float[batch,{heads},5,5] y{outputs})"
    return graph(f"{head} {{ {body} }}", **{n: a for n, a in arrays.items() if n in words})


def _large() -> onnx.ModelProto:
    return graph(
        """(float[1,128,768] x, float[1,12,128,64] k, float[1,12,128,64] v) => (float[1,12,128,64] y) {
            p = MatMul(x, w)
            b = Add(p, bias)
            h = Reshape(b, heads)
            q = Transpose <perm = [0, 2, 1, 3]> (h)
            qs = Mul(q, root)
            t = Transpose <perm = [0, 1, 3, 2]> (k)
            ks = Mul(t, root)
            s = MatMul(qs, ks)
            a = Softmax <axis = 3> (s)
            y = MatMul(a, v) }""",
        w=(768, 768),
        bias=(768,),
        heads=i64(0, 0, 12, 64),
        root=f32(64.0**-0.25),
    )


def _foldable(source: Projection | None, product: ir.Node) -> Miss | None:
    """Why a number cannot go into the weights behind the queries, or None."""
    if source is None:
        return miss("its queries are not made by one constant projection", product, 2)
    culprit = only_scales(source.out, product)
    if culprit is not None:
        return miss("it reads the queries elsewhere, or is not linear in them", culprit, 3)
    weight = source.matmul.inputs[1]
    if weight is not None and const(weight) is not None and len(weight.uses()) > 1:
        return miss("its weights are used elsewhere too", source.matmul, 3)
    return None


def _fold(source: Projection, factor: float, build: Build) -> None:
    """The projection again, with the columns of the queries multiplied."""
    matmul = source.matmul
    x, weight, *bias = matmul.inputs
    array = const(weight)
    assert array is not None
    flipped = matmul.op_type == "Gemm" and bool(attr(matmul, "transB", 0))
    factors = np.ones(array.shape[0 if flipped else 1])
    factors[source.start : source.stop] = factor
    scaled = [_multiplied(b, factors, build) for b in bias]
    weight = _multiplied(weight, factors[:, None] if flipped else factors, build)
    old = matmul.outputs[0]
    new = build.like(matmul, x, weight, *scaled, shape=dims(old))
    if source.add is not None:
        operands = [new if v is old else _multiplied(v, factors, build) for v in source.add.inputs]
        old = source.add.outputs[0]
        new = build.like(source.add, *operands, shape=dims(old))
    build.replace(old, new)


def _multiplied(value: ir.Value | None, factors: np.ndarray[Any, Any], build: Build) -> ir.Value | None:
    """A constant times ``factors``; zeros stay the constant they are."""
    array = const(value)
    if value is None or array is None or not array.any():
        return value
    wide = np.result_type(array.dtype, np.float32)  # float16 and bfloat16 round once, at the end
    return build.const(f"{value.name}_scaled", (array.astype(wide) * factors.astype(wide)).astype(array.dtype))


RULE = FoldAttentionScale()
