"""What calibration adds to a graph: outputs that measure its values, so that little more than scalars leave it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.graphs import typical_values

if TYPE_CHECKING:
    import onnx

PARTS = ("ReduceMin", "ReduceMax", "ReduceL1")  # the last because NaN passes through no other on every engine
_TAKEN = 1 << 14  # values of a tensor and sample that a histogram counts
_SLICE = {"flat": -1, "start": 0, "end": np.iinfo(np.int64).max}


def measuring(model: onnx.ModelProto, values: Iterable[str], counting: bool) -> onnx.ModelProto:
    """A copy of a graph that also gives, of each value that is no input, its :data:`PARTS`.

    Args:
        model: one graph. values: float values in it.
        counting: also give about 16,000 elements of each value and sample, by :func:`taken`.
    """
    import onnx
    from onnx import helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    inputs = {v.name for v in result.graph.input}
    inner = [value for value in values if value not in inputs]
    for value in inner:
        for of in PARTS:
            result.graph.node.append(helper.make_node(of, [value], [part(value, of)], keepdims=0))
            result.graph.output.append(helper.make_tensor_value_info(part(value, of), onnx.TensorProto.FLOAT, []))
    if counting and inner:
        _sample(result.graph, inner, _strides(model))
    return result


def part(value: str, of: str) -> str:
    """The output that holds one of :data:`PARTS` of a value."""
    return f"{value}/calibration/{of}"


def taken(value: str) -> str:
    """The output that holds some elements of a value, flat."""
    return f"{value}/calibration/taken"


def _sample(graph: onnx.GraphProto, values: Iterable[str], strides: dict[str, int]) -> None:
    """Every k-th element of each value."""
    import onnx
    from onnx import helper

    flat, start, end = (_constant(graph, f"calibration/{name}", number) for name, number in _SLICE.items())
    for value in values:
        stride = _constant(graph, f"{value}/calibration/stride", strides.get(value, 1))
        graph.node.append(helper.make_node("Reshape", [value, flat], [f"{value}/calibration/flat"]))
        sliced = [f"{value}/calibration/flat", start, end, start, stride]
        graph.node.append(helper.make_node("Slice", sliced, [taken(value)]))
        graph.output.append(helper.make_tensor_value_info(taken(value), onnx.TensorProto.FLOAT, [None]))


def _constant(graph: onnx.GraphProto, name: str, number: int) -> str:
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.array([number], np.int64), name))
    return name


def _strides(model: onnx.ModelProto) -> dict[str, int]:
    """How manieth element of each value is taken: a prime that divides no dimension, so no column is preferred."""
    return {name: _stride(shape) for name, shape, _ in typical_values(model)}


def _stride(shape: list[int]) -> int:
    stride = max(1, int(np.prod(shape)) // _TAKEN)
    while stride > 1 and (any(stride % i == 0 for i in range(2, stride)) or any(d % stride == 0 for d in shape)):
        stride += 1
    return stride
