"""What OpenVINO is told differently from what ONNX says: pairs of QuantizeLinear and DequantizeLinear.

Its reader turns a pair into FakeQuantize, Convert, Convert and Multiply. Its low-precision passes make one operator of
them again, but passes that run before (strides pulled up into what a convolution reads, among others) get in between,
and convolutions then compute in float; a Concat before the pair of floats, or of values of other scales, is even
computed wrongly (14 dB are left). So each pair becomes the one FakeQuantize here, which rounds to the same levels.

A quantizer behind a ReduceMax or ReduceMin of floats is computed wrongly in either form (17 dB are left): the engine
fuses it into the reduction. It does not where another reduction, over one element, stands between.
Both were measured with OpenVINO 2026.4.1. (OpenVINO FakeQuantize-1; ONNX DequantizeLinear-13)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_RANGES = {"i8": (-128, 127), "u8": (0, 255)}
_EXTREMES = ("ReduceMax", "ReduceMin")
_NEVER_FUSED_INTO = ("Convolution", "GroupConvolution", "MatMul", "ReduceSum", "ReduceMean", "Result", *_EXTREMES)


def fake_quantized(model: Any) -> Any:
    """The OpenVINO model with every pair of one scale and zero point as one FakeQuantize; others stay as they are."""
    found = [pair for node in model.get_ordered_ops() for pair in _pairs(node)]
    for quantize, dequantize, (low, high) in found:
        _replace(quantize, dequantize, low, high)
    if found:
        model.validate_nodes_and_infer_types()
    return model


def extremes_apart(model: Any) -> Any:
    """The OpenVINO model with every ReduceMax and ReduceMin of floats out of reach of the quantizers behind it."""
    from openvino import opset8 as opset

    for node in model.get_ordered_ops():
        if node.get_type_name() not in _EXTREMES or node.input_value(0).get_node().get_type_name() == "FakeQuantize":
            continue
        if _reaches_quantizer(node):
            readers = [port for port in node.output(0).get_target_inputs() if not _is_result(port)]
            axis = np.int64(0)
            same = opset.reduce_sum(opset.unsqueeze(node.output(0), axis), axis, keep_dims=False)
            for port in readers:
                port.replace_source_output(same.output(0))
    return model


def gated_in_int8(model: Any) -> Any:
    """The OpenVINO model with ``x·g`` as ``x - x·(1 - g)`` where a gate's product alone reads a quantized map x.

    A quantizer that one node reads, in float, is merged into the convolution before it, which then writes floats: four
    times the bytes. With two readers the map stays INT8, and one more subtraction costs nothing beside that.
    """
    from openvino import opset8 as opset

    for product in model.get_ordered_ops():
        if product.get_type_name() != "Multiply":
            continue
        for features, gate in ((0, 1), (1, 0)):
            x, g = product.input_value(features), product.input_value(gate)
            if _lone_map(x) and _is_gate(g):
                rest = opset.subtract(np.float32(1), g)
                whole = opset.subtract(x, opset.multiply(x, rest))
                whole.set_friendly_name(product.get_friendly_name())
                for port in product.output(0).get_target_inputs():
                    port.replace_source_output(whole.output(0))
                break
    return model


def _lone_map(port: Any) -> bool:
    """Whether a value is a quantized map, written by a convolution, that one node reads."""
    node = port.get_node()
    if node.get_type_name() != "FakeQuantize" or len(node.output(0).get_target_inputs()) != 1:
        return False
    writer = node.input_value(0).get_node()
    while writer.get_type_name() == "Add":  # its bias
        writer = writer.input_value(0).get_node()
    return bool(writer.get_type_name() in ("Convolution", "GroupConvolution"))


def _is_gate(port: Any) -> bool:
    """Whether a value is computed, with one number a channel or one a position."""
    shape = port.get_partial_shape()
    if port.get_node().get_type_name() == "Constant" or shape.rank.is_dynamic or shape.rank.get_length() != 4:
        return False
    ones = [d.is_static and d.get_length() == 1 for d in shape]
    return bool(all(ones[2:]) or ones[1])


def _reaches_quantizer(node: Any) -> bool:
    """Whether a quantizer reads what the node writes, through anything that the engine may fuse or let pass."""
    waiting, seen = [node], set()
    while waiting:
        for port in _read_by(waiting.pop()):
            reader = port.get_node()
            if reader.get_type_name() == "FakeQuantize":
                return True
            if reader.get_friendly_name() not in seen and reader.get_type_name() not in _NEVER_FUSED_INTO:
                seen.add(reader.get_friendly_name())
                waiting.append(reader)
    return False


def _read_by(node: Any) -> list[Any]:
    return [port for output in node.outputs() for port in output.get_target_inputs()]


def _is_result(port: Any) -> bool:
    return bool(port.get_node().get_type_name() == "Result")


def _pairs(quantize: Any) -> Iterator[tuple[Any, Any, tuple[float, float]]]:
    """``(FakeQuantize, Multiply, (low, high))`` for every DequantizeLinear that reads a QuantizeLinear."""
    if quantize.get_type_name() != "FakeQuantize":
        return
    for stored in _readers(quantize, "Convert"):
        kind = stored.get_output_element_type(0).get_type_name()
        for unpacked in _readers(stored, "Convert"):
            for shifted in (unpacked, *_readers(unpacked, "Subtract")):
                for scaled in _readers(shifted, "Multiply"):
                    zero = 0.0 if shifted is unpacked else _number(shifted.input_value(1))
                    scale = _number(scaled.input_value(1))
                    if kind not in _RANGES or zero is None or scale is None:
                        continue
                    low, high = ((level - zero) * scale for level in _RANGES[kind])
                    # The two halves of a pair may be given different scales: then it is no pair.
                    if np.allclose([low, high], [_number(quantize.input_value(i)) or 0.0 for i in (1, 2)], rtol=1e-5):
                        yield quantize, scaled, (low, high)


def _replace(quantize: Any, dequantize: Any, low: float, high: float) -> None:
    from openvino import opset8 as opset

    bounds = [np.float32(low), np.float32(high)]
    whole = opset.fake_quantize(quantize.input_value(0), *bounds, *bounds, 256)
    whole.set_friendly_name(dequantize.get_friendly_name())
    for reader in dequantize.output(0).get_target_inputs():
        reader.replace_source_output(whole.output(0))


def _readers(node: Any, kind: str) -> list[Any]:
    readers = [port.get_node() for port in node.output(0).get_target_inputs()]
    return [reader for reader in readers if reader.get_type_name() == kind]


def _number(port: Any) -> float | None:
    """The one value of a constant, seen through conversions; None for anything else."""
    node = port.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or node.get_output_element_type(0).get_type_name() not in ("f32", "i8", "u8"):
        return None
    values = np.asarray(node.get_data()).reshape(-1)
    return float(values[0]) if values.size == 1 else None
