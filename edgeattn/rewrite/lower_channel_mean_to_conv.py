"""lower_channel_mean_to_conv: the mean over channels is a 1×1 convolution with weights 1/C.

What: ReduceMean over the C channels of a feature map becomes a Conv with one output channel whose C weights are 1/C.

Why: engines spend their care on convolutions. The mean in a spatial gate can run in the layout, and on the cores, that
the convolutions around it use, where a reduction forces the map into another layout first; where the engine's
reductions are good it is slower. So it is measured.

Before: (N, C, H, W) ─ ReduceMean(axis 1) ─ (N, 1, H, W)
After:  (N, C, H, W) ─ Conv 1×1, weights 1/C ─ (N, 1, H, W)

Safe when: the axis is the channels of a 4-D float map, C is known, and the dimension stays. A product with 1/C is
rounded once more than a division by C, and the sum is added in another order.
Source: CBAM, Woo et al. 2018, section 3.2 (channel pooling).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64, spatial_gate
from edgeattn.rewrite._view import attr, axes, dims

if TYPE_CHECKING:
    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build

KINDS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)  # engines have no convolution of doubles


class LowerChannelMeanToConv(GraphRule):
    """ReduceMean over channels as a 1×1 Conv."""

    name = "lower_channel_mean_to_conv"
    exactness = ALLCLOSE
    measured = True
    anchors = ("ReduceMean",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the reduction."""
        x = node.inputs[0]
        shape = dims(x)
        if x is None or shape is None or len(shape) != 4 or axes(node) != (1,):
            return miss(f"it reduces axes {axes(node)} of {shape}, not the channels of a 4-D map", node, 0)
        if not isinstance(shape[1], int):
            return miss("the number of channels is not known", node, 1)
        if not attr(node, "keepdims", 1):
            return miss("it drops the dimension", node, 2)
        if x.dtype not in KINDS:
            return miss(f"its input is {x.dtype}, for which engines have no convolution", node, 3)
        return Match(node, (node,), {"channels": shape[1], "dtype": x.dtype.numpy()})

    def rewrite(self, match: Match, build: Build) -> None:
        """One Conv."""
        node, channels = match.anchor, match.parts["channels"]
        weights = build.const(f"mean_of_{channels}", np.full((1, channels, 1, 1), 1 / channels, match.parts["dtype"]))
        old = node.outputs[0]
        build.replace(old, build.op("Conv", node.inputs[0], weights, shape=dims(old), kernel_shape=[1, 1]))

    def examples(self) -> list[Program]:
        """A spatial gate's mean, dynamic; the older opset, from the back."""
        return as_programs(
            spatial_gate("batch", 6, "h", "w"),
            graph(
                "(float[batch,5,h,w] x) => (float[batch,1,h,w] y) { y = ReduceMean <axes = [-3]> (x) }",
                opset=17,
            ),
        )

    def near_misses(self) -> list[Program]:
        """Over space; without the dimension; of doubles; of unknown width."""
        return as_programs(
            graph("(float[batch,5,h,w] x) => (float[batch,5,1,1] y) { y = ReduceMean(x, axes) }", axes=i64(2, 3)),
            graph(
                "(float[batch,5,h,w] x) => (float[batch,h,w] y) { y = ReduceMean <keepdims = 0> (x, axes) }",
                axes=i64(1),
            ),
            graph("(double[batch,5,h,w] x) => (double[batch,1,h,w] y) { y = ReduceMean(x, axes) }", axes=i64(1)),
            graph("(float[batch,c,h,w] x) => (float[batch,1,h,w] y) { y = ReduceMean(x, axes) }", axes=i64(1)),
        )

    def workload(self) -> Program:
        """The spatial gate after ResNet-50's first stage."""
        return as_programs(spatial_gate(1, 256, 56, 56))[0]


RULE = LowerChannelMeanToConv()
