"""Writes a Plan into a graph as QuantizeLinear/DequantizeLinear pairs, in the dialect every engine accepts.

Activations: symmetric INT8, one scale a tensor, zero point 0 (UINT8 where the plan says a value is never negative). Weights: stored as INT8 with one scale an output
channel behind a DequantizeLinear. Biases stay float. (ONNX QuantizeLinear-13; TensorRT refuses INT32 biases and
non-zero zero points, ONNX Runtime and OpenVINO fuse this form into INT8 kernels.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array
    from edgeattn.quantize._plan import Plan

LEVELS = 127  # symmetric: -127 .. 127, so that zero is exact and -128 never needs a special case


def insert(model: onnx.ModelProto, plan: Plan, peaks: Mapping[str, float]) -> onnx.ModelProto:
    """A copy of the graph with the plan's pairs inserted; scales from ``peaks`` (max |x| by value)."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    nodes = list(graph.node)
    constants: list[onnx.TensorProto] = []
    renamed: dict[str, str] = {}
    after: dict[str, list[onnx.NodeProto]] = {}
    for value, root in plan.activations.items():
        peak = max(peaks[v] for v, r in plan.activations.items() if r == root and v in peaks)
        after[value] = _pair(value, peak, value in plan.unsigned, constants)
        renamed[value] = after[value][-1].output[0]
    before = [_weight(name, axis, graph, constants, renamed) for name, axis in plan.weights.items()]
    produced = {output for node in nodes for output in node.output}
    ordered = [*before, *(n for v in after if v not in produced for n in after[v])]
    for node in nodes:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        ordered.append(node)
        for output in node.output:
            ordered += after.get(output, [])
    del graph.node[:]
    graph.node.extend(ordered)
    kept = [t for t in graph.initializer if t.name not in plan.weights]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *constants])
    del graph.value_info[:]
    return result


def quantize_weight(weight: Array, axis: int) -> tuple[Array, Array]:
    """Per-channel symmetric INT8: ``(int8 values, float32 scales)``; a channel of zeros takes scale 1/127."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight).max(axis=others)
    scale = (np.where(peak > 0, peak, 1.0) / LEVELS).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    levels = np.clip(np.rint(weight / scale.reshape(shape)), -LEVELS, LEVELS)
    return levels.astype(np.int8), scale


def _pair(value: str, peak: float, unsigned: bool, constants: list[onnx.TensorProto]) -> list[onnx.NodeProto]:
    from onnx import helper, numpy_helper

    scale = (peak or 1.0) / (2 * LEVELS + 1 if unsigned else LEVELS)
    names = [f"{value}_scale", f"{value}_zero_point"]
    constants.append(numpy_helper.from_array(np.array(scale, np.float32), names[0]))
    constants.append(numpy_helper.from_array(np.array(0, np.uint8 if unsigned else np.int8), names[1]))
    return [
        helper.make_node("QuantizeLinear", [value, *names], [f"{value}_q"], name=f"{value}_quantize"),
        helper.make_node("DequantizeLinear", [f"{value}_q", *names], [f"{value}_dq"], name=f"{value}_dequantize"),
    ]


def _weight(
    name: str, axis: int, graph: onnx.GraphProto, constants: list[onnx.TensorProto], renamed: dict[str, str]
) -> onnx.NodeProto:
    from onnx import helper, numpy_helper

    stored = next(t for t in graph.initializer if t.name == name)
    levels, scale = quantize_weight(numpy_helper.to_array(stored), axis)
    names = [f"{name}_int8", f"{name}_scale", f"{name}_zero_point"]
    for array, label in zip((levels, scale, np.zeros(scale.shape, np.int8)), names, strict=True):
        constants.append(numpy_helper.from_array(array, label))
    renamed[name] = f"{name}_dq"
    return helper.make_node("DequantizeLinear", names, [renamed[name]], name=f"{name}_dequantize", axis=axis)
