"""The float program behind a quantized one: what INT8 has to be faster than.

A QuantizeLinear and the DequantizeLinear behind it are left out, stored weights become floats again. Where the
quantizer's lower end may stand for a ReLU (the zero point is the type's least number, 0 of UINT8 or -128 of INT8, on
what a product or a sum wrote), a Relu takes its place. What is left computes what the quantized program approximates.
(ONNX QuantizeLinear-13, DequantizeLinear-21)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import Unsupported
from edgeattn.graphs import GraphIndex, attributes

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array

_INTEGER = ("MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear")
_SUMS = ("Conv", "Gemm", "MatMul", "ConvTranspose", "Add")  # what a ReLU usually follows
_HINT = "compare with the float model itself: --against FLOAT.onnx"


def quantizes(model: onnx.ModelProto) -> bool:
    """Whether a graph quantizes activations, in pairs or by integer operators."""
    return any(node.op_type in ("QuantizeLinear", *_INTEGER) for node in model.graph.node)


def shown(models: Iterable[onnx.ModelProto]) -> str:
    """What graphs show that they are meant to run in: what they quantize to, else what most of their weights are."""
    given = list(models)
    if any(map(quantizes, given)):
        return "int8"
    stored: Counter[str] = Counter()
    for model in given:
        for tensor in model.graph.initializer:
            if label := {1: "fp32", 10: "fp16", 16: "bf16"}.get(tensor.data_type):
                stored[label] += math.prod(tensor.dims)
    return stored.most_common(1)[0][0] if stored.total() else "fp32"


def floating(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph without its QuantizeLinear/DequantizeLinear pairs.

    Raises:
        Unsupported: it computes with integers outside such pairs, so that the float graph cannot be read off it.
    """
    import onnx
    from onnx import helper

    found = _Pairs(GraphIndex(model))
    nodes = [kept for node in model.graph.node for kept in found.kept(node)]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for node in graph.node:
        node.input[:] = [found.stands_for.get(name, name) for name in node.input]
    for output in graph.output:
        if output.name in found.stands_for:
            graph.node.append(helper.make_node("Identity", [found.stands_for[output.name]], [output.name]))
    read = {name for node in graph.node for name in node.input}
    stored = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend([*stored, *found.weights])
    return result


class _Pairs:
    """What stands for the values of a graph's pairs, filled in as its nodes are walked in order."""

    def __init__(self, index: GraphIndex) -> None:
        self._index = index
        self.stands_for: dict[str, str] = {}
        self.weights: list[onnx.TensorProto] = []
        self._relus: set[str] = set()

    def kept(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """What is left of a node: itself, nothing, or a Relu."""
        if node.op_type in _INTEGER:
            raise Unsupported(f"computes with integers ({node.op_type})", where=_called(node), hint=_HINT)
        if node.op_type == "QuantizeLinear":
            readers = self._index.consumers.get(node.output[0], [])
            other = next((r for r in readers if r.op_type != "DequantizeLinear"), None)
            if other is not None or node.output[0] in self._index.outputs:
                raise Unsupported("writes INT8 that something else reads", where=_called(node), hint=_HINT)
            return []
        if node.op_type != "DequantizeLinear":
            return [node]
        return self._weight(node) if self._index.is_constant(node.input[0]) else self._activation(node)

    def _weight(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        from onnx import numpy_helper

        self.stands_for[node.output[0]] = name = f"{node.output[0]}_float"
        self.weights.append(numpy_helper.from_array(self._unpacked(node), name))
        return []

    def _activation(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        from onnx import helper

        quantize = self._index.producer.get(node.input[0])
        if quantize is None or quantize.op_type != "QuantizeLinear":
            raise Unsupported("unpacks INT8 that was not packed by this graph", where=_called(node), hint=_HINT)
        value = self.stands_for.get(quantize.input[0], quantize.input[0])
        relu = f"{value}_relu"
        self.stands_for[node.output[0]] = relu if self._clips(quantize) else value
        if not self._clips(quantize) or relu in self._relus:
            return []
        self._relus.add(relu)
        return [helper.make_node("Relu", [value], [relu], name=relu)]

    def _clips(self, quantize: onnx.NodeProto) -> bool:
        zero = self._index.constant(quantize.input[2]) if len(quantize.input) > 2 and quantize.input[2] else None
        writer = self._index.producer.get(quantize.input[0])
        lowest = zero is not None and zero.dtype.kind in "iu" and bool((zero == np.iinfo(zero.dtype).min).all())
        return lowest and writer is not None and writer.op_type in _SUMS

    def _unpacked(self, node: onnx.NodeProto) -> Array:
        """``(x - zero point) · scale`` of a stored weight, per tensor, per channel or in blocks."""
        values, scale = self._index.constant(node.input[0]), self._index.constant(node.input[1])
        zero = self._index.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else np.zeros((), np.int8)
        if values is None or scale is None or zero is None:
            raise Unsupported("has a scale or zero point that is computed", where=_called(node), hint=_HINT)
        given = attributes(node)
        axis, block = int(given.get("axis", 1)) % max(values.ndim, 1), int(given.get("block_size", 0))
        centred = values.astype(np.float32) - _spread(zero, values, axis, block).astype(np.float32)
        return np.asarray(centred * _spread(scale, values, axis, block).astype(np.float32), scale.dtype)


def _spread(part: Array, values: Array, axis: int, block: int) -> Array:
    """Scales or zero points in a shape that multiplies the values."""
    if block and part.ndim == values.ndim:
        return np.repeat(part, block, axis)[tuple(slice(size) for size in values.shape)]
    if part.ndim == 1 and part.size > 1:
        return part.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return part if part.size > 1 else part.reshape(())


def _called(node: onnx.NodeProto) -> str:
    return f"node '{node.name or node.output[0]}'"
