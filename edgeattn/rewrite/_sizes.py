"""Every shape of a graph at concrete input sizes, for equalities that symbols alone cannot prove.

An exporter writes the height behind a strided stem as ``(h - 1) // 4 + 1``; shape inference calls the same height
"unknown". Both are compositions of additions and floor divisions of one input size. Such functions are affine up to
their remainders, so agreeing at the small sizes, where rounding bites, and at runs of neighbours is agreeing always.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from edgeattn.rewrite._view import const

Shapes: TypeAlias = dict[str, tuple[int, ...]]

# Small sizes, neighbours around powers of two, and sizes where height and width differ.
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 96, 97, 130, 223, 224, 225)
SMALL = 64  # integer tensors up to this many elements are computed: they are shapes
# Operators of shape arithmetic, none of which makes something large out of something small.
ARITHMETIC = frozenset(
    {"Constant", "Identity", "Cast", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Flatten"}
    | {"Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Min", "Max", "Equal", "Less", "Greater", "Where", "ReduceProd"}
)


def sampled(graph: ir.Graph, opset: int) -> list[Shapes]:
    """Shapes of all values at each sample; sizes that the graph cannot take are left out.

    The symbols of the graph's inputs get different sizes in each sample, in rotation.
    """
    symbols = sorted(
        {d.value for v in graph.inputs for d in v.shape or () if isinstance(d, ir.SymbolicDim) and d.value}
    )
    nodes = [(node, _bare(node)) for node in graph]
    found = []
    for turn in range(len(SIZES)):
        sizes = {symbol: SIZES[(turn + 5 * place) % len(SIZES)] for place, symbol in enumerate(symbols)}
        shapes = _shapes_at(graph, nodes, opset, sizes)
        if shapes is not None:
            found.append(shapes)
    return found


def _shapes_at(
    graph: ir.Graph, nodes: list[tuple[ir.Node, onnx.NodeProto]], opset: int, sizes: dict[str, int]
) -> Shapes | None:
    """One sample; None where the graph is not defined at these sizes."""
    types: dict[str, onnx.TypeProto] = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for value in (*graph.inputs, *graph.initializers.values()):
        shape = [d if isinstance(d, int) else sizes.get(d.value or "", 0) for d in value.shape or ()]
        if value.name and value.dtype is not None and 0 not in shape:
            types[value.name] = onnx.helper.make_tensor_type_proto(int(value.dtype), shape)
            array = const(value) if np.prod(shape) <= SMALL else None
            if array is not None:
                arrays[value.name] = array
    for node, proto in nodes:
        try:
            _step(node, proto, opset, types, arrays)
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError, RuntimeError):
            return None
    known = {name: _shape(kind) for name, kind in types.items()}
    return {name: shape for name, shape in known.items() if shape is not None}


def _step(
    node: ir.Node,
    proto: onnx.NodeProto,
    opset: int,
    types: dict[str, onnx.TypeProto],
    arrays: dict[str, np.ndarray[Any, Any]],
) -> None:
    """The types of a node's outputs, and their contents where they are small integers."""
    inputs = [name for name in proto.input if name]
    if node.op_type == "Shape" and inputs[0] in types:
        whole = _shape(types[inputs[0]])
        if whole is not None:
            start, end = node.attributes.get("start"), node.attributes.get("end")
            part = whole[start.value if start else 0 : end.value if end else None]
            _know(proto.output[0], np.array(part, np.int64), types, arrays)
        return
    if node.op_type in ARITHMETIC and all(name in arrays and arrays[name].dtype.kind in "iub" for name in inputs):
        results = ReferenceEvaluator(proto).run(None, {name: arrays[name] for name in inputs})
        for name, result in zip(proto.output, results, strict=True):
            if name and np.size(result) <= SMALL:
                _know(name, np.asarray(result), types, arrays)
        return
    if any(name not in types for name in inputs):
        return
    schema = onnx.defs.get_schema(proto.op_type, opset, "")
    data = {name: onnx.numpy_helper.from_array(arrays[name], name) for name in inputs if name in arrays}
    types |= onnx.shape_inference.infer_node_outputs(
        schema,
        proto,
        {name: types[name] for name in inputs},
        data,
        opset_imports=[onnx.helper.make_opsetid("", opset)],
    )


def _know(
    name: str, array: np.ndarray[Any, Any], types: dict[str, onnx.TypeProto], arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    arrays[name] = array
    types[name] = onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _shape(kind: onnx.TypeProto) -> tuple[int, ...] | None:
    tensor = kind.tensor_type
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


def _bare(node: ir.Node) -> onnx.NodeProto:
    proto = ir.serde.serialize_node(node)
    del proto.metadata_props[:]
    return proto
