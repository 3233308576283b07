"""New nodes of a quantized graph and their constants, named after the value that they lead to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array


class Writer:
    """Collects ``nodes`` and ``constants``.

    Args:
        name: the value they lead to, and the stem of their names. stored: scales and zero points in the graph.
        opset: the graph's. int8: wide layers multiply INT8.
    """

    def __init__(self, name: str, stored: dict[str, Array], opset: int, int8: bool) -> None:
        self.name, self.stored, self.opset, self.int8 = name, stored, opset, int8
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

    def quantize(self, value: str, what: str) -> tuple[str, str, str]:
        """Levels, scale and zero point of a value by its own range, found at every run."""
        from onnx import helper

        levels, scale, zero_point = (f"{self.name}/{what}{part}" for part in ("", "_scale", "_zero_point"))
        outputs = [levels, scale, zero_point]
        self.nodes.append(helper.make_node("DynamicQuantizeLinear", [value], outputs, name=levels))
        return levels, scale, zero_point

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
