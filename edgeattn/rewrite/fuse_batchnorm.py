"""fuse_batchnorm: a BatchNormalization after a Conv is part of that Conv.

What: scale, shift, mean and variance are multiplied into the convolution's weights and bias.

Why: QDQ between Conv and BatchNormalization costs accuracy and blocks the INT8 kernel; and it is one pass less
over the tensor. Includes the 1×1, grouped and 2→1 convolutions of attention gates.

Before: Conv(x, W, b) → BatchNormalization(γ, β, μ, σ²)
After: Conv(x, W·γ/√(σ²+ε), (b − μ)·γ/√(σ²+ε) + β)

Safe when: inference mode, constants only, and nothing else reads the convolution. Computed in float64, rounded once.
Source: Ioffe & Szegedy 2015, section 3.1; Jacob et al. 2018, section 3.2 (batch normalization folding).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import f32, graph
from edgeattn.rewrite._view import attr, const, dims, made_by, used_once

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build


class FuseBatchnorm(GraphRule):
    """Conv + BatchNormalization as one Conv."""

    name = "fuse_batchnorm"
    exactness = ALLCLOSE
    anchors = ("BatchNormalization",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the BatchNormalization."""
        conv = made_by(node.inputs[0], "Conv")
        if conv is None:
            before = node.inputs[0].producer() if node.inputs[0] is not None else None
            return miss("no Conv lies before the BatchNormalization", before, 0)
        if attr(node, "training_mode", 0) or any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
            return miss("it is in training mode", node, 1)
        if not used_once(conv.outputs[0]):
            return miss("its output is read elsewhere too", conv, 2)
        arrays = [const(v) for v in (*node.inputs[1:5], *conv.inputs[1:])]
        if any(a is None for a in arrays):
            return miss("weights or statistics are not constant", node, 3)
        if arrays[4] is not None and arrays[4].dtype not in (np.float32, np.float64):
            return miss(f"weights are {arrays[4].dtype}: fold before casting down", conv, 3)
        return Match(node, (conv, node), {"conv": conv, "arrays": arrays})

    def rewrite(self, match: Match, build: Build) -> None:
        """One Conv with bias."""
        conv = match.parts["conv"]
        gamma, beta, mean, variance, weight, *bias = match.parts["arrays"]
        scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + attr(match.anchor, "epsilon", 1e-5))
        shift = ((bias[0].astype(np.float64) if bias else 0.0) - mean) * scale + beta
        scaled = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        old = match.anchor.outputs[0]
        stem = conv.inputs[1].name
        new_weight = build.const(f"{stem}_bn", scaled.astype(weight.dtype))
        new_bias = build.const(f"{stem}_bn_bias", shift.astype(weight.dtype))
        build.replace(old, build.like(conv, conv.inputs[0], new_weight, new_bias, shape=dims(old)))

    def examples(self) -> list[Program]:
        """3×3, grouped with bias, and the spatial gate's 7×7 from two channels to one."""
        return as_programs(
            _conv_bn("8,4,3,3", "pads = [1, 1, 1, 1]"),
            _conv_bn("8,1,3,3", "pads = [1, 1, 1, 1], group = 4", bias=True),
            _conv_bn("1,4,7,7", "pads = [3, 3, 3, 3]"),
        )

    def near_misses(self) -> list[Program]:
        """The convolution is read elsewhere; there is none; the scale is fed."""
        return as_programs(
            _conv_bn("8,4,3,3", "pads = [1, 1, 1, 1]", outputs=", float[batch,8,h,w] c"),
            graph(
                "(float[batch,4,h,w] x) => (float[batch,4,h,w] y) { y = BatchNormalization(x, g, b, m, v) }",
                g=(4,),
                b=(4,),
                m=(4,),
                v=f32(1, 2, 3, 4),
            ),
            _conv_bn("8,4,3,3", "pads = [1, 1, 1, 1]", inputs=", float[8] g"),
        )

    def workload(self) -> Program:
        """A 3×3 convolution of ResNet-50's first stage with its normalisation and activation."""
        return as_programs(
            graph(
                """(float[1,64,56,56] x) => (float[1,64,56,56] y) {
                    c = Conv <pads = [1, 1, 1, 1]> (x, weight)
                    n = BatchNormalization(c, g, b, m, v)
                    y = Relu(n) }""",
                weight=(64, 64, 3, 3),
                g=(64,),
                b=(64,),
                m=(64,),
                v=0.5 + np.arange(64, dtype=np.float32),
            )
        )[0]


def _conv_bn(
    weight: str, attributes: str, *, bias: bool = False, outputs: str = "", inputs: str = ""
) -> onnx.ModelProto:
    shape = tuple(int(d) for d in weight.split(","))
    out = shape[0]
    weights: dict[str, Any] = {
        "weight": shape,
        "g": (out,),
        "b": (out,),
        "m": (out,),
        "v": 0.5 + np.arange(out, dtype=np.float32),
    }
    if bias:
        weights["cb"] = (out,)
    if inputs:
        del weights["g"]
    return graph(
        f"""(float[batch,4,h,w] x{inputs}) => (float[batch,{out},h,w] y{outputs}) {{
            c = Conv <{attributes}> (x, weight{", cb" if bias else ""})
            y = BatchNormalization <epsilon = 0.001> (c, g, b, m, v) }}""",
        **weights,
    )


RULE = FuseBatchnorm()
