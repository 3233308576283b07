"""lower_fc_to_conv: a channel gate's MLP stays 4-D.

What: between a pooled map (N, C, 1, 1) and the gate (N, C, 1, 1) the Flatten, Reshape, Squeeze and Unsqueeze go, and
every Gemm, or MatMul with the Add behind it, becomes a 1×1 Conv with the same weights; activations, sums and constants
in between stay.

Why: SE and CBAM exports leave and re-enter four dimensions 4–8 operators a block; those Reshapes bake in the batch
size, break layout propagation in engines, and hide the pattern that quantizers treat as squeeze-and-excite.

Before: GlobalAveragePool → Flatten → Gemm → Relu → Gemm → Sigmoid → Unsqueeze(2, 3) → Mul
After: GlobalAveragePool → Conv 1×1 → Relu → Conv 1×1 → Sigmoid → Mul

Safe when: everything between starts from (N, C, 1, 1) tensors, weights are constants, and nothing else reads the 2-D
values. A 1×1 Conv on a 1×1 map is the same dot product, added in another order.
Source: SE, Hu et al. 2018, equation 3; CBAM, Woo et al. 2018, equation 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeattn.rewrite._region import LINEAR, SHAPE_OPS, Region, in_order, outside_reader, walk
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import channel_gate, graph, i64
from edgeattn.rewrite._view import attr, const, dims, is_gate, made_by, used_once

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build


class LowerFcToConv(GraphRule):
    """A 2-D gate MLP between two 4-D tensors, as 1×1 convolutions."""

    name = "lower_fc_to_conv"
    exactness = ALLCLOSE
    anchors = ("Unsqueeze", "Reshape")

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the operator that makes the gate 4-D again; walks back to where it was last 4-D."""
        flat = _flat_source(node)
        if flat is None:
            return None
        region = Region()
        walk(flat, region)
        linear = [n for n in region.nodes if n.op_type in LINEAR]
        if region.stop is not None:
            return region.stop
        if not linear:
            return None if not region.nodes else miss("no Gemm or MatMul lies before it", node, 1)
        outsider = outside_reader(region, node)
        if outsider is not None:
            return miss("it reads a 2-D value of the gate", outsider, len(region.nodes))
        return Match(node, (*reversed(region.nodes), node), {"flat": flat, "region": region})

    def rewrite(self, match: Match, build: Build) -> None:
        """Every node of the region again, on 4-D values."""
        region: Region = match.parts["region"]
        lifted: dict[ir.Value, ir.Value] = dict(region.leaves)
        biases = {linear: add for add in region.nodes if (linear := _biased(add)) is not None}
        for node in in_order(region):
            if node not in biases:
                lifted[node.outputs[0]] = _lift(node, lifted, build)
        build.replace(match.anchor.outputs[0], lifted[match.parts["flat"]])

    def examples(self) -> list[Program]:
        """SE with and without bias, CBAM's shared MLP with SiLU, MatMul + Add, Squeeze, a late sigmoid, a fused sum."""
        return as_programs(
            graph(
                """(float[batch,8,h,w] x) => (float[batch,8,h,w] y) {
                    p = GlobalAveragePool(x)
                    f = Flatten(p)
                    a = Gemm <transB = 1> (f, w1, b1)
                    r = Relu(a)
                    c = Gemm <transB = 1> (r, w2, b2)
                    s = Sigmoid(c)
                    g = Unsqueeze(s, axes)
                    y = Mul(x, g) }""",
                w1=(4, 8),
                b1=(4,),
                w2=(8, 4),
                b2=(8,),
                axes=i64(2, 3),
            ),
            graph(
                """(float[batch,8,6,6] x) => (float[batch,8,1,1] y) {
                    p = GlobalAveragePool(x)
                    f = Reshape(p, flat)
                    a = MatMul(f, w1)
                    d = Add(b1, a)
                    z = Sigmoid(d)
                    r = Mul(d, z)
                    c = Gemm(r, w2)
                    g = Reshape(c, gate)
                    y = HardSigmoid(g) }""",
                w1=(8, 4),
                b1=(4,),
                w2=(4, 8),
                flat=i64(-1, 8),
                gate=i64(-1, 8, 1, 1),
            ),
            graph(
                """(float[batch,8,h,w] x) => (float[batch,8,1,1] g) {
                    p = GlobalAveragePool(x)
                    q = GlobalMaxPool(x)
                    p1 = Squeeze(p, last)
                    p2 = Squeeze(p1, last)
                    q2 = Flatten(q)
                    a = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (p2, w1, b1)
                    ra = Relu(a)
                    ca = Gemm <transB = 1> (ra, w2, b2)
                    b = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (q2, w1, b1)
                    rb = Relu(b)
                    cb = Gemm <transB = 1> (rb, w2, b2)
                    s = Add(ca, cb)
                    m = Sigmoid(s)
                    u = Unsqueeze(m, last)
                    g = Unsqueeze(u, last) }""",
                w1=(4, 8),
                b1=(4,),
                w2=(8, 4),
                b2=(8,),
                last=i64(-1),
            ),
            graph(
                """(float[batch,8,h,w] x) => (float[batch,8,1,1] g) {
                    p = GlobalAveragePool(x)
                    q = GlobalMaxPool(x)
                    p1 = Flatten(p)
                    q1 = Flatten(q)
                    a = MatMul(p1, w1)
                    b = Gemm(q1, w1, a)
                    g = Unsqueeze(b, axes) }""",
                w1=(8, 8),
                axes=i64(2, 3),
            ),
        )

    def near_misses(self) -> list[Program]:
        """Logits also read the flat value; the map is not pooled; weights are fed; the MLP reads a plain input."""
        mlp = """f = Flatten(p)
                 a = Gemm <transB = 1> (f, w1)
                 g = Unsqueeze(a, axes) """
        return as_programs(
            graph(
                f"""(float[batch,8,h,w] x) => (float[batch,8,1,1] g, float[batch,8] z) {{
                    p = GlobalAveragePool(x)
                    {mlp}
                    z = Relu(a) }}""",
                w1=(8, 8),
                axes=i64(2, 3),
            ),
            graph(
                f"(float[batch,8,2,2] p) => (float[batch,4,1,1] g) {{ {mlp} }}",
                w1=(4, 32),
                axes=i64(2, 3),
            ),
            graph(
                f"""(float[batch,8,h,w] x, float[8,8] w1) => (float[batch,8,1,1] g) {{
                    p = GlobalAveragePool(x)
                    {mlp} }}""",
                axes=i64(2, 3),
            ),
            graph(
                """(float[batch,8] x) => (float[batch,8,1,1] g) {
                    a = Gemm <transB = 1> (x, w1)
                    g = Unsqueeze(a, axes) }""",
                w1=(8, 8),
                axes=i64(2, 3),
            ),
        )

    def workload(self) -> Program:
        """The channel gate after ResNet-50's third stage, its MLP with Gemm."""
        return as_programs(channel_gate(1, 1024, 14, 14, 64, flat=True))[0]


def _flat_source(node: ir.Node) -> ir.Value | None:
    """The (N, C) value behind the shape operators that end in ``node`` with (N, C, 1, 1); None if that is not so."""
    shape = dims(node.outputs[0])
    if not is_gate(shape):
        return None
    value = node.inputs[0]
    while value is not None and len(dims(value) or ()) == 3:
        step = made_by(value, *SHAPE_OPS)
        value = step.inputs[0] if step is not None else None
    flat = dims(value)
    return value if flat is not None and shape is not None and len(flat) == 2 and flat[1] == shape[1] else None


def _lift(node: ir.Node, lifted: dict[ir.Value, ir.Value], build: Build) -> ir.Value:
    """``node`` on 4-D values."""
    flat = dims(node.outputs[0])
    shape = (*flat, 1, 1) if flat is not None else None
    linear = node if node.op_type in LINEAR else _biased(node)
    if linear is not None:
        return _conv(linear, None if linear is node else node, lifted, build, shape)
    operands: list[ir.Value | None] = []
    for value in node.inputs:
        array = const(value)
        if value is None or array is None:
            operands.append(lifted[value] if value is not None else None)
        elif array.size > 1 and node.op_type != "BatchNormalization":
            operands.append(build.const(f"{value.name}_4d", array.reshape(-1, 1, 1)))
        else:
            operands.append(value)
    return build.like(node, *operands, shape=shape)


def _biased(add: ir.Node) -> ir.Node | None:
    """The MatMul whose bias an Add adds; None where it is another Add, or the product is read elsewhere too."""
    linear = next((n for n in (made_by(v, "MatMul") for v in add.inputs) if n is not None), None)
    if add.op_type != "Add" or linear is None or not used_once(linear.outputs[0]):
        return None
    return linear if any(const(v) is not None for v in add.inputs) else None


def _conv(
    node: ir.Node,
    add: ir.Node | None,
    lifted: dict[ir.Value, ir.Value],
    build: Build,
    shape: tuple[int | str | None, ...] | None,
) -> ir.Value:
    """A Gemm, or a MatMul and the Add behind it, as a 1×1 Conv: weights (out, in, 1, 1), alpha and beta folded in."""
    x, weight = node.inputs[0], node.inputs[1]
    w = const(weight)
    assert x is not None and weight is not None and w is not None  # noqa: PT018 (what match has proven)
    rows = w if node.op_type == "Gemm" and attr(node, "transB", 0) else w.T
    rows = rows * w.dtype.type(attr(node, "alpha", 1.0))
    inputs = [lifted[x], build.const(f"{weight.name}_1x1", rows[:, :, None, None])]
    bias = next((v for v in (node.inputs[2:] if add is None else add.inputs) if const(v) is not None), None)
    b = const(bias)
    if bias is not None and b is not None:
        whole = np.broadcast_to(b.reshape(-1) * b.dtype.type(attr(node, "beta", 1.0)), (rows.shape[0],))
        inputs.append(build.const(f"{bias.name}_1x1", whole))
    product = build.op("Conv", *inputs, shape=shape, source=node, kernel_shape=[1, 1])
    summed = node.inputs[2] if len(node.inputs) > 2 else None
    if summed is None or const(summed) is not None:
        return product
    return build.op("Add", product, lifted[summed], shape=shape, source=node)


RULE = LowerFcToConv()
