"""int8-weights: weights stored as INT8, one scale a channel; activations stay float.

What: the weights of wide Conv, Gemm, MatMul, LSTM and GRU layers and the tables that Gather looks tokens up in become
INT8 behind a DequantizeLinear. Nothing else changes.
Why: a quarter of the file, and no calibration: only weights are rounded. Where reading weights is what takes the time
(a decoder's step at batch 1), engines that multiply them packed are faster too.
How: max |w| over each output channel / 127, zero point 0; a table has one scale a row. Matrix products read their
weight laid out as (inputs, outputs), the form that ONNX Runtime multiplies packed; OpenVINO does so as well, and a
recurrent cell that runs for one step is rewritten to such a product. No engine here does for convolutions and recurrent
layers over sequences: their weights are unpacked when the graph is opened, and only the file is smaller. ONNX Runtime
would unpack them anew at every run, so its dialect has Cast and Mul there, which it computes once, and a table's rows
are unpacked behind the Gather, with one scale a column. With ``precision: int8`` both engines also round what a packed
product reads to INT8 while they run, 32 to 256 numbers to a scale (42 dB a product or better). With ``precision:
fp32`` nothing but the weights is rounded, and ONNX Runtime unpacks them all when it opens the graph.
Stays float: activations, gates, layers narrower than 16 channels, biases, anything under ``--keep``.
Source: ONNX DequantizeLinear-13.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeattn import outside
from edgeattn.graphs import GraphIndex, attributes
from edgeattn.program import Case, Opener, Program
from edgeattn.quantize import Quantized, Scheme, Settings
from edgeattn.quantize._insert import insert, refuse_nonfinite
from edgeattn.quantize._levels import quantize_weight
from edgeattn.quantize._plan import NARROW, WEIGHTED, Plan, plan
from edgeattn.quantize._policy import matches
from edgeattn.rounding import FLOAT

if TYPE_CHECKING:
    import onnx

_RECURRENT = ("LSTM", "GRU", "RNN")


class Int8Weights(Scheme):
    """The scheme; see the module docstring."""

    name = "int8-weights"
    precision = "fp32"
    also = ("int8",)
    limits = "int8"
    calibrated = False

    def quantize(self, program: Program, opener: Opener, data: Iterable[Case], settings: Settings) -> Quantized:
        """Plan as for INT8 with activations, and store the weights alone; see :func:`edgeattn.quantize.quantize`."""
        plans = {graph: plan(model, settings) for graph, model in program.graphs.items()}
        written = {graph: _write(model, plans[graph], settings) for graph, model in program.graphs.items()}
        notes = {
            "weights": sum(count for _, count in written.values()),
            "bytes": sum(map(outside.size, program.graphs.values())),
            "bytes_after": sum(outside.size(model) for model, _ in written.values()),
            "kept_float": {name: why for p in plans.values() for name, why in p.kept.items()},
            "attention": [f"{a.kind}: {a.describe()}" for p in plans.values() for a in p.attention],
        }
        return replace(program, graphs={graph: model for graph, (model, _) in written.items()}), notes


def _laid_out(model: onnx.ModelProto, weights: Mapping[str, int]) -> tuple[onnx.ModelProto, dict[str, int]]:
    """Every Gemm's weight as ``(inputs, outputs)``, the form in which ONNX Runtime multiplies packed weights.

    Args:
        model: not edited. weights: constants to pack -> the axis of their output channels.

    Returns:
        The graph, and ``weights`` as they are now.
    """
    import numpy as np
    import onnx
    from onnx import numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    stored = {tensor.name: tensor for tensor in result.graph.initializer}
    turned: dict[str, str] = {}
    for node in result.graph.node:
        name = node.input[1] if node.op_type == "Gemm" else ""
        transposed = next((a for a in node.attribute if a.name == "transB" and a.i), None)
        if name not in weights or name not in stored or transposed is None:
            continue
        if name not in turned:
            turned[name] = f"{name}_transposed"
            array = np.ascontiguousarray(outside.array(stored[name]).T)
            result.graph.initializer.append(numpy_helper.from_array(array, turned[name]))
        node.input[1], transposed.i = turned[name], 0
    _drop_unread(result.graph, turned)
    multiplied = {name for node in result.graph.node if node.op_type in WEIGHTED for name in node.input}
    return result, {**{n: a for n, a in weights.items() if n in multiplied}, **dict.fromkeys(turned.values(), 1)}


def _write(model: onnx.ModelProto, chosen: Plan, settings: Settings) -> tuple[onnx.ModelProto, int]:
    """The graph with its weights packed, and how many there are."""
    turned, weights = _laid_out(model, chosen.weights)
    index = GraphIndex(turned)
    convolved = {n.input[1]: 0 for n in index.nodes if n.op_type == "Conv" and n.input[1] in weights}
    multiplied = {name: axis for name, axis in weights.items() if name not in convolved}
    recurrent = [n for n in index.nodes if n.op_type in _RECURRENT and not _kept(n, settings)]
    whole = convolved | {name: 1 for n in recurrent for name in n.input[1:3] if _is_wide(index, name)}
    apart = not settings.qdq.unpacks_at_once
    # A scale a column can be applied to rows of any shape behind the Gather. Before it, a scale a row is finer, and
    # OpenVINO 2026.4 dies of the other.
    found = (n for n in index.nodes if _is_table(index, n) and not _kept(n, settings))
    tables = {n.input[0]: 1 if apart else 0 for n in found}
    refuse_nonfinite(turned, Plan(weights={**tables, **whole, **multiplied}))
    result = insert(turned, Plan(weights=multiplied), {})
    graph = result.graph
    packed = {name: _pack(name, axis, graph, apart) for name, axis in {**whole, **tables}.items()}
    ahead = whole if apart else {**whole, **tables}
    nodes = [new for name, axis in ahead.items() for new in _unpacked(name, axis, packed[name], apart)]
    for node in graph.node:
        if apart and node.op_type == "Gather" and node.input[0] in tables:
            nodes += _unpacked_rows(node, packed[node.input[0]])
        else:
            reads = node.op_type in ("Conv", "Gather", *_RECURRENT)
            node.input[:] = [f"{name}_unpacked" if reads and name in ahead else name for name in node.input]
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph, {*whole, *tables})
    return result, len(multiplied) + len(packed)


def _drop_unread(graph: onnx.GraphProto, names: Iterable[str]) -> None:
    """Remove those of the named constants that no node reads any more."""
    read = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name in read or t.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _is_table(index: GraphIndex, node: onnx.NodeProto) -> bool:
    reads_rows = node.op_type == "Gather" and attributes(node).get("axis", 0) == 0
    return reads_rows and len(index.constant_shape(node.input[0]) or ()) == 2 and _is_wide(index, node.input[0])


def _is_wide(index: GraphIndex, name: str) -> bool:
    tensor = next((t for t in index.model.graph.initializer if t.name == name), None)
    return tensor is not None and tensor.data_type == FLOAT and min(tensor.dims[1:], default=0) >= NARROW


def _kept(node: onnx.NodeProto, settings: Settings) -> bool:
    return any(matches(node, pattern) for pattern in settings.keep)


def _unpacked_rows(node: onnx.NodeProto, packed: list[str]) -> Iterator[onnx.NodeProto]:
    """A Gather of INT8 rows, and what unpacks those that it read."""
    from onnx import helper

    output = node.output[0]
    node.input[0], node.output[0] = packed[0], f"{output}_int8"
    yield node
    yield helper.make_node(
        "DequantizeLinear", [node.output[0], packed[1]], [output], name=f"{output}_dequantize", axis=-1
    )


def _unpacked(name: str, axis: int, packed: list[str], apart: bool) -> Iterator[onnx.NodeProto]:
    """What unpacks a whole weight: DequantizeLinear, or ``apart`` as plain arithmetic."""
    from onnx import helper

    levels, scale, unpacked = *packed, f"{name}_unpacked"
    if apart:
        yield helper.make_node("Cast", [levels], [f"{name}_levels"], name=f"{name}_cast", to=FLOAT)
        yield helper.make_node("Mul", [f"{name}_levels", scale], [unpacked], name=f"{name}_scaled")
    else:
        yield helper.make_node("DequantizeLinear", packed, [unpacked], name=f"{name}_dequantize", axis=axis)


def _pack(name: str, axis: int, graph: onnx.GraphProto, apart: bool) -> list[str]:
    """Store a constant as INT8 with a scale along an axis (``apart``: shaped to be multiplied); their names."""
    from onnx import numpy_helper

    names = [f"{name}_packed", f"{name}_packed_scale"]
    array = outside.array(next(t for t in graph.initializer if t.name == name))
    levels, scale = quantize_weight(array, axis)
    if apart and array.ndim > 2:  # a table, of rank 2, has its scales behind the Gather
        scale = scale.reshape([-1 if i == axis else 1 for i in range(array.ndim)])
    graph.initializer.extend(numpy_helper.from_array(a, n) for a, n in zip((levels, scale), names, strict=True))
    return names


SCHEME = Int8Weights()
