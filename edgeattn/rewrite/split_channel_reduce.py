"""split_channel_reduce: a maximum or mean over many channels is taken in two steps.

What: ReduceMax and ReduceMean over the C channels of a feature map become one over C/8 channels in eight groups, side
by side, and one over the eight results. Both Reshapes only tell the map's size anew; no number moves.

Why: the spatial gate of a CBAM reads the whole map to keep one number a position. At batch 1 ONNX Runtime walks such a
reduction in long strides on one core: over 256×56×56 the two steps take a third of the time. OpenVINO keeps maps in
blocks of channels, where the Reshapes cost a copy each: there it is slower. So it is measured.

Before: (N, C, H, W) ─ ReduceMax(axis 1) ─ (N, 1, H, W)
After:  (N, C, H, W) ─ Reshape ─ (8N, C/8, H, W) ─ ReduceMax(axis 1) ─ Reshape ─ (N, 8, H, W) ─ ReduceMax(axis 1)

Safe when: the axis is the channels of a 4-D map, C is known and a multiple of the number of groups (8, 4 or 2); all
groups are equally large, so the mean of means is the mean. The maximum is bit-exact, the mean adds in another order.
Source: CBAM, Woo et al. 2018, section 3.2 (channel pooling); ONNX Runtime's reduction kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph, i64, spatial_gate
from edgeattn.rewrite._view import attr, axes, dims, made_by

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build

GROUPS = (8, 4, 2)  # more leave the second step too much to do, fewer leave the first too long a stride
FEWEST = 4  # channels in a group


class SplitChannelReduce(GraphRule):
    """A reduction over channels, as one within groups of them and one over the groups."""

    name = "split_channel_reduce"
    exactness = ALLCLOSE
    measured = True
    anchors = ("ReduceMax", "ReduceMean")

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the reduction."""
        shape = dims(node.inputs[0])
        if shape is None or len(shape) != 4 or axes(node) != (1,):
            return miss(f"it reduces axes {axes(node)} of {shape}, not the channels of a 4-D map", node, 0)
        channels = shape[1]
        if not isinstance(channels, int):
            return miss("the number of channels is not known", node, 1)
        if _in_two_steps(node):
            return miss("it is one of two steps already", node, 3)
        groups = next((g for g in GROUPS if channels % g == 0 and channels // g >= FEWEST), None)
        if groups is None:
            return miss(f"{channels} channels make no {' or '.join(map(str, GROUPS))} equal groups", node, 2)
        return Match(node, (node,), {"groups": groups})

    def rewrite(self, match: Match, build: Build) -> None:
        """Reshape → Reduce → Reshape → Reduce; 0 keeps the dimension there, -1 is what is left: the batch."""
        node, groups = match.anchor, match.parts["groups"]
        n, c, h, w = dims(node.inputs[0]) or (None,) * 4
        assert isinstance(c, int)
        many = n * groups if isinstance(n, int) else None
        in_groups = build.const(f"channels_in_{groups}_groups", _shape(c // groups))
        ungrouped = build.const(f"{groups}_groups", _shape(groups))
        grouped = build.op("Reshape", node.inputs[0], in_groups, shape=(many, c // groups, h, w))
        each = _again(node, grouped, build, (many, 1, h, w), keepdims=1)
        several = build.op("Reshape", each, ungrouped, shape=(n, groups, h, w))
        old = node.outputs[0]
        build.replace(old, _again(node, several, build, dims(old), keepdims=attr(node, "keepdims", 1)))

    def examples(self) -> list[Program]:
        """Both of a spatial gate's reductions, dynamic; the older opset, without keepdims, from the back."""
        return as_programs(
            spatial_gate("batch", 32, "h", "w"),
            graph(
                "(float[batch,20,h,w] x) => (float[batch,h,w] y) { y = ReduceMean <axes = [-3], keepdims = 0> (x) }",
                opset=17,
            ),
        )

    def near_misses(self) -> list[Program]:
        """Over height; of a matrix a sample; a prime number of channels; in two steps already."""
        return as_programs(
            graph("(float[batch,32,h,w] x) => (float[batch,32,1,w] y) { y = ReduceMax(x, axes) }", axes=i64(2)),
            graph("(float[batch,s,32] x) => (float[batch,1,32] y) { y = ReduceMean(x, axes) }", axes=i64(1)),
            graph("(float[batch,31,h,w] x) => (float[batch,1,h,w] y) { y = ReduceMax(x, axes) }", axes=i64(1)),
            graph(
                """(float[batch,256,h,w] x) => (float[batch,1,h,w] y) {
                    groups = Reshape(x, apart)
                    each = ReduceMax(groups, axes)
                    several = Reshape(each, together)
                    y = ReduceMax(several, axes) }""",
                apart=i64(-1, 32, 0, 0),
                together=i64(-1, 8, 0, 0),
                axes=i64(1),
            ),
        )

    def workload(self) -> Program:
        """The spatial gate after ResNet-50's first stage."""
        return as_programs(spatial_gate(1, 256, 56, 56))[0]


def _shape(channels: int) -> Any:
    return np.array([-1, channels, 0, 0], np.int64)


def _again(
    node: ir.Node, x: ir.Value, build: Build, shape: tuple[int | str | None, ...] | None, keepdims: int
) -> ir.Value:
    """The same reduction, over the same axis, of another value."""
    attributes = {name: a.value for name, a in node.attributes.items() if name != "keepdims"}
    return build.op(node.op_type, x, *node.inputs[1:], shape=shape, source=node, keepdims=keepdims, **attributes)


def _in_two_steps(node: ir.Node) -> bool:
    """Whether its channels were made of others by a Reshape that keeps H and W."""
    reshape = made_by(node.inputs[0], "Reshape")
    return reshape is not None and (dims(reshape.inputs[0]) or ())[2:] == (dims(node.inputs[0]) or ())[2:]


RULE = SplitChannelReduce()
