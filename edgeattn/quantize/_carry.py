"""Writes gates as scales into a quantized graph (ONNX DequantizeLinear-13, MatMulInteger-10, MaxPool-12).

A channel gate g becomes the scales of weights: of the convolution that writes the features where g does not depend on
what it writes (SE behind a pointwise convolution: the mean of ``Wr + b`` is ``W·mean(r) + b``), else of a depthwise 1×1
convolution with weights of one, ``Conv(x, DequantizeLinear(1, scale=g))``. A spatial gate s becomes the scales of a
DequantizeLinear over positions. The pools read the quantized tensor where it lies, channels last: sums as products with
ones in INT32, which are exact, and maxima, which quantization does not move. A mean behind a pointwise convolution is
taken before it, where the map is narrower. The MLP (but for wide layers where gates may be INT8) and both squashing
functions are computed in float. (SE: Hu 2018, equation 4; CBAM: Woo 2018, equations 2 and 3.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.quantize._gates import Carried, ChannelGate, Layer, SpatialGate
from edgeattn.quantize._levels import quantize_weight
from edgeattn.quantize._writer import Writer

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array

_LARGEST_BIAS = 2**30  # of an INT32, with room for the sum it is added to
_WIDE = 1 << 15  # weights from which a layer is bound by reading them; smaller ones lie in the cache
_SMALL_MAP = 256  # positions up to which lines as channels are faster; measured at 7², 14², 28² and 56²


def carry(model: onnx.ModelProto, carried: Sequence[Carried], *, int8: bool) -> onnx.ModelProto:
    """The quantized graph with these gates written as scales, their wide layers in ``int8``; edits ``model``."""
    from onnx import numpy_helper

    from edgeattn import outside

    if not carried:
        return model
    graph = model.graph
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    stored = {t.name: outside.array(t) for t in graph.initializer if t.name.endswith(("_zero_point", "_scale"))}
    tensors = {t.name: t for t in graph.initializer}
    written: dict[str, list[onnx.NodeProto]] = {}
    for gate in carried:
        writer = Writer(gate.result, stored, opset, int8)
        if isinstance(gate, SpatialGate):
            _positions(writer, gate)
        else:
            before = _pointwise(writer, gate.writer, tensors) if gate.writer is not None else None
            if gate.folds and before is not None:
                _folded(writer, gate, before)
            else:
                _depthwise(writer, gate, before)
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


@dataclass(frozen=True)
class _Pointwise:
    """The quantized 1×1 convolution that writes a gate's features: levels (C, I), INT8; scales (C); bias (C)."""

    node: onnx.NodeProto
    levels: Array
    scales: Array
    bias: Array

    def composed(self, layer: Layer) -> Layer:
        """A layer of the features' mean as one of the mean of what the convolution reads: W·mean(r) + b."""
        matrix = (self.levels.astype(np.float32) * self.scales[:, None]).T  # (I, C)
        return Layer(matrix @ layer.weight, self.bias @ layer.weight + layer.bias)


def _pointwise(w: Writer, node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> _Pointwise:
    from edgeattn import outside

    levels = outside.array(tensors[f"{node.input[1]}_int8"])
    biased = len(node.input) > 2 and node.input[2]
    bias = outside.array(tensors[node.input[2]]) if biased else np.zeros(len(levels), np.float32)
    return _Pointwise(node, levels.reshape(len(levels), -1), w.stored[f"{node.input[1]}_scale"], bias)


def _mlp(w: Writer, gate: ChannelGate, pooled: str) -> str:
    """(pools, C) to the gate (1, C)."""
    hidden = _hidden(w, pooled, gate.first)
    second = _shared(gate)
    if second is None:
        return _squash(w, gate.squash, _dense(w, w.reshape(hidden, "beside", 1, -1), "fc2", gate.second, "score"))
    if len(gate.pools) > 1:
        axis = w.const("rows_axis", np.array([0], np.int64))
        hidden = w("ReduceSum", [hidden, axis], "both", keepdims=1)
    return _squash(w, gate.squash, _dense(w, hidden, "fc2", second, "score"))


def _shared(gate: ChannelGate) -> Layer | None:
    """The second layer, if it is the same for all pools and so is one layer of their hidden values' sum."""
    halves = np.split(gate.second.weight, len(gate.pools))
    same = all(np.array_equal(halves[0], half) for half in halves)
    return Layer(halves[0], gate.second.bias) if same else None


def _hidden(w: Writer, pooled: str, first: Layer, of: str = "") -> str:
    return w("Relu", [_dense(w, pooled, f"fc1{of}", first, f"hidden{of}")], f"active{of}")


def _dense(w: Writer, value: str, name: str, layer: Layer, what: str) -> str:
    """A fully connected layer. In INT8 its input is quantized at every run: pools have no range of their own."""
    bias = w.const(f"{name}_bias", layer.bias)
    if not w.int8 or layer.weight.size < _WIDE:
        return w("Gemm", [value, w.const(name, layer.weight), bias], what)
    weight, scales = quantize_weight(layer.weight, 1)
    levels, scale, zero_point = w.quantize(value, f"{name}_levels")
    whole = w("MatMulInteger", [levels, w.const(f"{name}_int8", weight), zero_point], f"{name}_int32")
    scaled = w("Mul", [scale, w.const(f"{name}_weight_scale", scales)], f"{name}_scale")
    product = w("Mul", [w("Cast", [whole], f"{name}_sum", to=1), scaled], f"{name}_product")
    return w("Add", [product, bias], what)


def _squash(w: Writer, like: onnx.NodeProto, score: str) -> str:
    from edgeattn.graphs import attributes

    return w(like.op_type, [score], "gate", **attributes(like))


def _folded(w: Writer, gate: ChannelGate, before: _Pointwise) -> None:
    """SE: the gate multiplies the scales of the weights of the convolution before it, and so of its INT32 bias.

    Written as the standard QLinearConv itself: ONNX Runtime does not fuse the pairs around a bias whose scale is
    computed.
    """
    from edgeattn.graphs import attributes

    conv, source = before.node, before.node.input[0]
    levels, scales, whole = _integers(before.levels, before.scales, before.bias, w.scale(source))
    first = _Pointwise(conv, levels, scales, before.bias).composed(gate.first)
    hidden = _hidden(w, _mean(w, source, gate.size), first)
    factor = w.reshape(_squash(w, gate.squash, _dense(w, hidden, "fc2", gate.second, "score")), "factor", -1)
    scaled = w("Mul", [factor, w.const("weight_scale", scales)], "gated_scale")
    names = [f"{source}_q", f"{source}_scale", f"{source}_zero_point"]
    names += [w.const("weight_int8", levels[:, :, None, None]), scaled, f"{conv.input[1]}_zero_point"]
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


def _mean(w: Writer, value: str, size: tuple[int, int], rows: str = "") -> str:
    """The mean over positions of a quantized map, (1, C) in float: a product with ones, exact in INT32."""
    positions = size[0] * size[1]
    rows = rows or w.rows(value, size, "rows")
    names = [w.ones(value, "ones", 1, positions), rows, w.zero(value), f"{value}_zero_point"]
    return w.unpack(w("MatMulInteger", names, "sum"), "mean", w.scale(value) / positions)


def _depthwise(w: Writer, gate: ChannelGate, before: _Pointwise | None) -> None:
    """CAM: the gate is the scales of a depthwise convolution with weights of one."""
    x, channels = gate.features, len(gate.second.bias)
    mean_first = before is not None and _reads_less(gate, before)
    squashed = _mlp_apart(w, gate, before) if before is not None and mean_first else _mlp(w, gate, _pools(w, gate))
    factor = w.reshape(squashed, "factor", -1)
    one = w.const("one", np.ones((channels, 1, 1, 1), np.int8))
    zeros = w.const("one_zero_point", np.zeros(channels, np.int8))
    weight = w("DequantizeLinear", [one, factor, zeros], "weight", axis=0)
    w("Conv", [f"{x}_dq", weight], group=channels, kernel_shape=[1, 1])


def _reads_less(gate: ChannelGate, before: _Pointwise) -> bool:
    """Whether the mean before the convolution spares more bytes of the map than its own first layer adds."""
    (channels, inputs), (height, width) = before.levels.shape, gate.size
    added = 4 * inputs * gate.first.weight.shape[1]
    fits = set(gate.pools) == {"mean", "max"} and _shared(gate) is not None
    return fits and added < (channels - inputs) * height * width


def _pools(w: Writer, gate: ChannelGate) -> str:
    """Every pool of the features, a row each."""
    pooled = [_mean(w, gate.features, gate.size) if pool == "mean" else _most(w, gate) for pool in gate.pools]
    return w("Concat", pooled, "pooled", axis=0) if len(pooled) > 1 else pooled[0]


def _mlp_apart(w: Writer, gate: ChannelGate, before: _Pointwise) -> str:
    """As ``_mlp``, with the mean from what the convolution before the gate reads, a quarter as wide in a ResNet."""
    second = _shared(gate)
    assert second is not None
    mean = _hidden(w, _mean(w, before.node.input[0], gate.size), before.composed(gate.first), "_mean")
    most = _hidden(w, _most(w, gate), gate.first)
    return _squash(w, gate.squash, _dense(w, w("Add", [mean, most], "both"), "fc2", second, "score"))


def _most(w: Writer, gate: ChannelGate) -> str:
    """The largest value of each channel, (1, C) in float: the pool runs on the quantized map."""
    x = gate.features
    most = w("MaxPool", [f"{x}_q"], "max_q", kernel_shape=[*gate.size])
    most = w.reshape(w("Transpose", [most], "max_channels_last", perm=[0, 2, 3, 1]), "max_row", 1, -1)
    return w("DequantizeLinear", [most, f"{x}_scale", f"{x}_zero_point"], "max")


def _positions(w: Writer, gate: SpatialGate) -> None:
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


def _mask(w: Writer, gate: SpatialGate, planes: str) -> str:
    """The planes (pools · HW, 1) to the spatial gate, HW values.

    One output channel is what no engine's convolution kernels are made for. On a small map lines become channels; for
    larger ones the weights come from a DequantizeLinear, because ONNX Runtime pads constant ones to 16 output channels,
    which takes twice as long.
    """
    from edgeattn.graphs import attributes

    (height, width), rows, given = gate.size, len(gate.pools), attributes(gate.convolution)
    lines = by_lines(gate.weight, given, height) if height * width <= _SMALL_MAP else None
    if lines is not None:
        names = [w.reshape(planes, "lines", 1, rows * height, 1, width), w.const("weight", lines)]
        names += [w.const("bias", np.repeat(b, height)) for b in _given(gate.bias)]
        pad = lines.shape[-1] // 2
        return _squash(w, gate.squash, w("Conv", names, "score", pads=[0, pad, 0, pad]))
    step = np.float32(max(np.abs(gate.weight).max(), 1e-30) / 2**30)
    levels = w.const("weight_int32", np.rint(gate.weight / step).astype(np.int32))
    names = [w.reshape(planes, "map", 1, rows, height, width), w.unpack(levels, "weight", step)]
    names += [w.const("bias", b) for b in _given(gate.bias)]
    return _squash(w, gate.squash, w("Conv", names, "score", **given))


def _given(bias: Array | None) -> list[Array]:
    return [] if bias is None else [bias]


def by_lines(weight: Array, attributes: Mapping[str, Any], height: int) -> Array | None:
    """A convolution (1, I, kh, kw) over maps of this height whose I·H lines are channels: (H, I·H, 1, kw).

    None unless size and step stay.
    """
    _, inputs, *kernel = weight.shape
    pads = attributes.get("pads", [0, 0, 0, 0])
    once = all(set(attributes.get(n, [1])) == {1} for n in ("strides", "dilations")) and attributes.get("group", 1) == 1
    if not once or pads[:2] != pads[2:] or [2 * p + 1 for p in pads[:2]] != kernel:
        return None
    lines = np.zeros((height, inputs, height, 1, kernel[1]), np.float32)
    for y, dy in np.ndindex(height, kernel[0]):
        row = y + dy - pads[0]
        if 0 <= row < height:
            lines[y, :, row, 0] = weight[0, :, dy]
    return lines.reshape(height, inputs * height, 1, kernel[1])
