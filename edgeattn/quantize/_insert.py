"""Writes a Plan into a graph as QuantizeLinear/DequantizeLinear pairs.

Activations: symmetric INT8, one scale a tensor, zero point 0; UINT8 for engines that ask for it. Weights: stored as
INT8 with one scale an output channel behind a DequantizeLinear. Biases stay float. The default dialect is what every
engine accepts: TensorRT refuses INT32 biases and non-zero zero points, OpenVINO fuses this form into INT8 kernels,
and ONNX Runtime does so for the unsigned one. (ONNX QuantizeLinear-13)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import BadInput, printable
from edgeattn.quantize._carry import carry
from edgeattn.quantize._levels import LEVELS, quantize_weight
from edgeattn.quantize._plan import WEIGHTED

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array
    from edgeattn.quantize._plan import Plan


def insert(model: onnx.ModelProto, plan: Plan, peaks: Mapping[str, float]) -> onnx.ModelProto:
    """A copy of the graph with the plan's pairs inserted; scales from ``peaks`` (max |x| by value), gates' known."""
    import onnx

    peaks = {**peaks, **plan.known}

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    nodes = list(graph.node)
    constants: list[onnx.TensorProto] = []
    renamed: dict[str, str] = {}
    after: dict[str, list[onnx.NodeProto]] = {}
    for value, root in plan.activations.items():
        seen = [peaks[v] for v, r in plan.activations.items() if r == root and v in peaks]
        if not seen:  # no sample computed it, nor what shares its scale: it stays in float
            continue
        peak = max(seen)
        kind = _kind(plan.unsigned, value in plan.nonnegative, plan.signed_elsewhere)
        after[value] = _pair(value, peak / kind.levels if peak else 1.0, kind.zero_point, constants)
        renamed[value] = after[value][-1].output[0]
    before = [_weight(name, axis, graph, constants, renamed) for name, axis in plan.weights.items()]
    produced = {output for node in nodes for output in node.output}
    ordered = [*before, *(n for v in after if v not in produced for n in after[v])]
    for node in nodes:
        for i, name in enumerate(node.input):
            # An embedding that is the output map too is looked up in float: a table is not unpacked for a row of it.
            if name not in plan.weights or node.op_type in WEIGHTED:
                node.input[i] = renamed.get(name, name)
        ordered += _apart(node) if node.output[0] in plan.bias_apart else [node]
        for output in node.output:
            ordered += after.get(output, [])
    del graph.node[:]
    graph.node.extend(ordered)
    read = {name for node in nodes for name in node.input}
    kept = [t for t in graph.initializer if t.name not in plan.weights or t.name in read]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *constants])
    del graph.value_info[:]
    return carry(result, plan.carried, int8=plan.gates_in_int8)


def levels(plan: Plan) -> dict[str, int]:
    """Steps from zero to the peak, by activation."""
    kinds = {v: _kind(plan.unsigned, v in plan.nonnegative, plan.signed_elsewhere) for v in plan.activations}
    return {value: kind.levels for value, kind in kinds.items()}


def _apart(gemm: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A Gemm as a Gemm without bias and an Add."""
    from onnx import helper

    bias, output = gemm.input.pop(), gemm.output[0]
    gemm.output[0] = f"{output}_product"
    return [gemm, helper.make_node("Add", [gemm.output[0], bias], [output], name=f"{output}_bias")]


def refuse_nonfinite(model: onnx.ModelProto, plan: Plan) -> None:
    """Refuse a weight that INT8 has no numbers for.

    Raises:
        BadInput: names the first weight that holds NaN or infinities.
    """
    from edgeattn import outside

    for tensor in model.graph.initializer:
        if tensor.name in plan.weights and not np.isfinite(outside.array(tensor)).all():
            what = f"weight '{printable(tensor.name, 80)}' holds NaN or infinite values, which INT8 does not have"
            raise BadInput(what, hint="mend the weights, or keep its layer in float with --keep")


@dataclass(frozen=True)
class _Kind:
    levels: int  # steps from zero to the peak
    zero_point: Array  # its dtype is the activation's


def _kind(unsigned: bool, nonnegative: bool, signed_elsewhere: bool = False) -> _Kind:
    if not unsigned or (signed_elsewhere and not nonnegative):
        return _Kind(LEVELS, np.array(0, np.int8))
    return _Kind(2 * LEVELS + 1, np.array(0, np.uint8)) if nonnegative else _Kind(LEVELS, np.array(128, np.uint8))


def _pair(value: str, scale: float, zero_point: Array, constants: list[onnx.TensorProto]) -> list[onnx.NodeProto]:
    from onnx import helper, numpy_helper

    names = [f"{value}_scale", f"{value}_zero_point"]
    constants.append(numpy_helper.from_array(np.array(scale, np.float32), names[0]))
    constants.append(numpy_helper.from_array(zero_point, names[1]))
    return [
        helper.make_node("QuantizeLinear", [value, *names], [f"{value}_q"], name=f"{value}_quantize"),
        helper.make_node("DequantizeLinear", [f"{value}_q", *names], [f"{value}_dq"], name=f"{value}_dequantize"),
    ]


def _weight(
    name: str, axis: int, graph: onnx.GraphProto, constants: list[onnx.TensorProto], renamed: dict[str, str]
) -> onnx.NodeProto:
    from onnx import helper, numpy_helper

    from edgeattn import outside

    stored = next(t for t in graph.initializer if t.name == name)
    levels, scale = quantize_weight(outside.array(stored), axis)
    names = [f"{name}_int8", f"{name}_scale", f"{name}_zero_point"]
    for array, label in zip((levels, scale, np.zeros(scale.shape, np.int8)), names, strict=True):
        constants.append(numpy_helper.from_array(array, label))
    renamed[name] = f"{name}_dq"
    return helper.make_node("DequantizeLinear", names, [renamed[name]], name=f"{name}_dequantize", axis=axis)
