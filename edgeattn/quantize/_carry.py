"""Writes gates as scales into a quantized graph (ONNX DequantizeLinear-13, MatMulInteger-10, MaxPool-12).

A channel gate g becomes the scales of weights: of the convolution that writes the features where g does not depend on
what it writes (SE behind a pointwise convolution: the mean of ``Wr + b`` is ``W·mean(r) + b``), else of a depthwise 1×1
convolution with weights of one, ``Conv(x, DequantizeLinear(1, scale=g))``. A spatial gate s becomes the scales of a
DequantizeLinear over positions. The pools read the quantized tensor where it lies, channels last: sums as products with
ones in INT32, which are exact, and maxima, which quantization does not move. The MLP and both squashing functions are
computed in float. (SE: Hu 2018, equation 4; CBAM: Woo 2018, equations 2 and 3.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.quantize._gates import Carried, ChannelGate, Layer, SpatialGate

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array

_LARGEST_BIAS = 2**30  # of an INT32, with room for the sum it is added to
_SHARE = 100  # a spatial gate's matrix may take one part in so many of the file
_SMALL_MAP = 256  # positions: a matrix of 512 KB at most, no more than its convolution costs


class _Writer:
    """New nodes and constants, named after the value they lead to."""

    def __init__(self, name: str, stored: dict[str, Array], opset: int, room: int) -> None:
        self.name, self.stored, self.opset, self.room = name, stored, opset, room
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def const(self, what: str, array: Array) -> str:
        name = f"{self.name}/{what}"
        self.constants[name] = array
        return name

    def __call__(self, op: str, inputs: Sequence[str], what: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = f"{self.name}/{what}" if what else self.name
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def reshape(self, value: str, what: str, *shape: int) -> str:
        return self("Reshape", [value, self.const(f"{what}_shape", np.array(shape, np.int64))], what)

    def rows(self, value: str, size: tuple[int, int], what: str) -> str:
        """A quantized map (1, C, H, W) as (HW, C): a position a row."""
        last = self("Transpose", [f"{value}_q"], f"{what}_channels_last", perm=[0, 2, 3, 1])
        return self.reshape(last, what, size[0] * size[1], -1)

    def unpack(self, value: str, what: str, scale: float | np.floating[Any], zero_point: str = "") -> str:
        names = [value, self.const(f"{what}_scale", np.array(scale, np.float32)), *([zero_point] if zero_point else [])]
        return self("DequantizeLinear", names, what)

    def reduce_max(self, rows: str, what: str) -> str:
        """The largest value of each row; the axis is an input from opset 18 on."""
        if self.opset < 18:
            return self("ReduceMax", [rows], what, axes=[1], keepdims=1)
        return self("ReduceMax", [rows, self.const(f"{what}_axis", np.array([1], np.int64))], what, keepdims=1)

    def scale(self, value: str) -> np.float32:
        return np.float32(self.stored[f"{value}_scale"])

    def ones(self, like: str, what: str, *shape: int) -> str:
        return self.const(what, np.ones(shape, self.stored[f"{like}_zero_point"].dtype))

    def zero(self, like: str) -> str:
        return self.const("zero", np.zeros((), self.stored[f"{like}_zero_point"].dtype))


def carry(model: onnx.ModelProto, carried: Sequence[Carried]) -> onnx.ModelProto:
    """The quantized graph with these gates written as scales; edits and returns ``model``."""
    from onnx import numpy_helper

    from edgeattn import outside

    if not carried:
        return model
    graph = model.graph
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    stored = {t.name: outside.array(t) for t in graph.initializer if t.name.endswith(("_zero_point", "_scale"))}
    tensors = {t.name: t for t in graph.initializer}
    room = sum(outside.array(t).nbytes for t in graph.initializer) // _SHARE
    written: dict[str, list[onnx.NodeProto]] = {}
    for gate in carried:
        writer = _Writer(gate.result, stored, opset, room)
        if isinstance(gate, SpatialGate):
            _positions(writer, gate)
        elif gate.convolution is None:
            _depthwise(writer, gate)
        else:
            levels, bias = (outside.array(tensors[n]) if n in tensors else None for n in _parameters(gate.convolution))
            assert levels is not None
            _folded(writer, gate, gate.convolution, levels, bias)
        written[writer.name] = writer.nodes
        graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in writer.constants.items())
    gone = {name for gate in carried for name in gate.replaced}.union(written)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += written.get(node.output[0], [] if node.output[0] in gone else [node])
    del graph.node[:]
    graph.node.extend(nodes)
    return _swept(model)


def _swept(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without what nothing reads any more."""
    graph = model.graph
    kept: list[onnx.NodeProto] = []
    read = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if any(name in read for name in node.output):
            kept.append(node)
            read.update(node.input)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    tensors = [t for t in graph.initializer if t.name in read]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    return model


def _parameters(convolution: onnx.NodeProto) -> tuple[str, str]:
    return f"{convolution.input[1]}_int8", convolution.input[2] if len(convolution.input) > 2 else ""


def _mlp(w: _Writer, gate: ChannelGate, pooled: str, first: Layer) -> str:
    """(pools, I) to the gate (1, C)."""
    names = [pooled, w.const("fc1", first.weight), w.const("fc1_bias", first.bias)]
    hidden = w("Relu", [w("Gemm", names, "hidden")], "active")
    second = gate.second.weight
    halves = np.split(second, len(gate.pools))
    if len(halves) > 1 and all(np.array_equal(halves[0], half) for half in halves):
        second = halves[0]
        axis = w.const("rows_axis", np.array([0], np.int64))
        hidden = w("ReduceSum", [hidden, axis], "both", keepdims=1)
    elif len(halves) > 1:
        hidden = w.reshape(hidden, "beside", 1, -1)
    names = [hidden, w.const("fc2", second), w.const("fc2_bias", gate.second.bias)]
    return _squash(w, gate.squash, w("Gemm", names, "score"))


def _squash(w: _Writer, like: onnx.NodeProto, score: str) -> str:
    from edgeattn.graphs import attributes

    return w(like.op_type, [score], "gate", **attributes(like))


def _folded(w: _Writer, gate: ChannelGate, conv: onnx.NodeProto, levels: Array, bias: Array | None) -> None:
    """SE: the gate multiplies the scales of the weights of the convolution before it, and so of its INT32 bias.

    Written as the standard QLinearConv itself: ONNX Runtime does not fuse the pairs around a bias whose scale is
    computed.
    """
    from edgeattn.graphs import attributes

    source = conv.input[0]
    bias = np.zeros(levels.shape[0], np.float32) if bias is None else bias
    levels, scales, whole = _integers(levels, w.stored[f"{conv.input[1]}_scale"], bias, w.scale(source))
    matrix = (levels.reshape(levels.shape[0], -1) * scales[:, None]).T  # (I, C)
    first = Layer(matrix @ gate.first.weight, bias @ gate.first.weight + gate.first.bias)
    factor = w.reshape(_mlp(w, gate, _mean(w, source, gate.size), first), "factor", -1)
    scaled = w("Mul", [factor, w.const("weight_scale", scales)], "gated_scale")
    names = [f"{source}_q", f"{source}_scale", f"{source}_zero_point"]
    names += [w.const("weight_int8", levels), scaled, f"{conv.input[1]}_zero_point"]
    names += [f"{gate.result}_scale", f"{gate.result}_zero_point", w.const("bias_int32", whole)]
    w.name = f"{gate.result}_q"
    w("QLinearConv", names, **attributes(conv))
    w.nodes[-1].name = conv.name


def _integers(levels: Array, scales: Array, bias: Array, step: np.float32) -> tuple[Array, Array, Array]:
    """Weights (INT8), their scales and the bias (INT32) of a convolution whose input has this scale.

    A bias many times larger than all of its channel's weights does not fit beside them: they give up levels for it.
    """
    needed = np.maximum(scales, np.abs(bias) / (np.float32(step) * _LARGEST_BIAS)).astype(np.float32)
    shape = (-1, *(1,) * (levels.ndim - 1))
    kept = np.rint(levels * (scales / needed).reshape(shape)).astype(np.int8)
    return kept, needed, np.rint(bias / (np.float64(step) * needed)).astype(np.int32)


def _mean(w: _Writer, value: str, size: tuple[int, int], rows: str = "") -> str:
    """The mean over positions of a quantized map, (1, C) in float: a product with ones, exact in INT32."""
    positions = size[0] * size[1]
    rows = rows or w.rows(value, size, "rows")
    names = [w.ones(value, "ones", 1, positions), rows, w.zero(value), f"{value}_zero_point"]
    return w.unpack(w("MatMulInteger", names, "sum"), "mean", w.scale(value) / positions)


def _depthwise(w: _Writer, gate: ChannelGate) -> None:
    x, (height, width) = gate.features, gate.size
    channels = gate.second.bias.shape[0]
    pooled = []
    for pool in gate.pools:
        if pool == "mean":
            pooled.append(_mean(w, x, gate.size))
        else:
            most = w("MaxPool", [f"{x}_q"], "max_q", kernel_shape=[height, width])
            most = w.reshape(w("Transpose", [most], "max_channels_last", perm=[0, 2, 3, 1]), "max_row", 1, channels)
            pooled.append(w("DequantizeLinear", [most, f"{x}_scale", f"{x}_zero_point"], "max"))
    stacked = w("Concat", pooled, "pooled", axis=0) if len(pooled) > 1 else pooled[0]
    factor = w.reshape(_mlp(w, gate, stacked, gate.first), "factor", -1)
    one = w.const("one", np.ones((channels, 1, 1, 1), np.int8))
    zeros = w.const("one_zero_point", np.zeros(channels, np.int8))
    weight = w("DequantizeLinear", [one, factor, zeros], "weight", axis=0)
    w("Conv", [f"{x}_dq", weight], group=channels, kernel_shape=[1, 1])


def _positions(w: _Writer, gate: SpatialGate) -> None:
    u, (height, width), positions = gate.features, gate.size, gate.size[0] * gate.size[1]
    rows = w.rows(u, gate.size, "rows")
    zero_point = w.stored[f"{u}_zero_point"]
    planes = []
    for pool in gate.pools:
        if pool == "mean":
            names = [rows, w.const("ones", np.ones((gate.channels, 1), np.int8)), f"{u}_zero_point"]
            planes.append(w.unpack(w("MatMulInteger", names, "sum"), "mean", w.scale(u) / gate.channels))
        else:
            most = w.reduce_max(rows, "max_q")
            planes.append(w("DequantizeLinear", [most, f"{u}_scale", f"{u}_zero_point"], "max"))
    factor = w.reshape(_mask(w, gate, w("Concat", planes, "planes", axis=0)), "factor", -1)
    scaled = w("Mul", [factor, w.const("feature_scale", np.array(w.scale(u), np.float32))], "gated_scale")
    points = w.const("zero_points", np.full(positions, zero_point, zero_point.dtype))
    gated = w("DequantizeLinear", [rows, scaled, points], "gated_rows", axis=0)
    last = w.reshape(gated, "gated", 1, height, width, gate.channels)
    w("Transpose", [last], perm=[0, 3, 1, 2])


def _mask(w: _Writer, gate: SpatialGate, planes: str) -> str:
    """The planes (pools · HW, 1) to the spatial gate, HW values.

    One output channel is what no engine's convolution kernels are made for. A small map's convolution is a product
    with a matrix; for larger ones the weights come from a DequantizeLinear, because ONNX Runtime pads constant ones to
    16 output channels, which takes twice as long.
    """
    from edgeattn.graphs import attributes

    (height, width), rows = gate.size, len(gate.pools)
    bias = [gate.bias] if gate.bias is not None else []
    matrix = dense(gate.weight, attributes(gate.convolution), gate.size) if height * width <= _SMALL_MAP else None
    if matrix is not None and matrix.nbytes <= w.room:
        flat = w.reshape(planes, "row", 1, rows * height * width)
        names = [flat, w.const("matrix", matrix), *(w.const("matrix_bias", b.reshape(1)) for b in bias)]
        return _squash(w, gate.squash, w("Gemm", names, "score"))
    step = np.float32(max(np.abs(gate.weight).max(), 1e-30) / 2**30)
    levels = w.const("weight_int32", np.rint(gate.weight / step).astype(np.int32))
    names = [w.reshape(planes, "map", 1, rows, height, width), w.unpack(levels, "weight", step)]
    names += [w.const("bias", b) for b in bias]
    return _squash(w, gate.squash, w("Conv", names, "score", **attributes(gate.convolution)))


def dense(weight: Array, attributes: Mapping[str, Any], size: tuple[int, int]) -> Array | None:
    """A convolution (1, I, kh, kw) over a map of this size as a matrix (I·HW, HW); None unless size and step stay."""
    _, inputs, *kernel = weight.shape
    pads, (height, width) = attributes.get("pads", [0, 0, 0, 0]), size
    once = all(set(attributes.get(n, [1])) == {1} for n in ("strides", "dilations")) and attributes.get("group", 1) == 1
    if not once or pads[:2] != pads[2:] or [2 * p + 1 for p in pads[:2]] != kernel:
        return None
    matrix = np.zeros((inputs, height, width, height, width), np.float32)
    for dy, dx in np.ndindex(*kernel):
        for y, x in np.ndindex(height, width):
            row, column = y + dy - pads[0], x + dx - pads[1]
            if 0 <= row < height and 0 <= column < width:
                matrix[:, row, column, y, x] = weight[0, :, dy, dx]
    return matrix.reshape(inputs * height * width, height * width)
