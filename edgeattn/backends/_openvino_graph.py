"""What OpenVINO is told differently from what ONNX says: pairs of QuantizeLinear and DequantizeLinear.

Its reader turns a pair into FakeQuantize, Convert, Convert and Multiply. Its low-precision passes make one operator of
them again, but passes that run before (strides pulled up into what a convolution reads, among others) get in between,
and convolutions then compute in float. So each pair becomes the one FakeQuantize here, which rounds to the same levels.
(OpenVINO FakeQuantize-1; ONNX DequantizeLinear-13)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_RANGES = {"i8": (-128, 127), "u8": (0, 255)}


def fake_quantized(model: Any) -> Any:
    """The OpenVINO model with every pair of one scale and zero point as one FakeQuantize; others stay as they are."""
    found = [pair for node in model.get_ordered_ops() for pair in _pairs(node)]
    for quantize, dequantize, (low, high) in found:
        _replace(quantize, dequantize, low, high)
    if found:
        model.validate_nodes_and_infer_types()
    return model


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
