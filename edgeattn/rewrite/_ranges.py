"""Ranges too long to be looked into: ONNX's own shape inference, asked to propagate data, makes every number of one.

A file of a few hundred bytes can hold ``Range(0, 10^10, 1)``; that is 80 GB before any rule has looked at it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgeattn.rewrite import _arithmetic

LONGEST = 1 << 20
_SMALL = 64  # elements of what is computed here: sizes


def infer(bare: onnx.ModelProto, strict: bool = True) -> onnx.ModelProto:
    """Shapes inferred with what integers hold, unless a Range is too long for that; then without.

    Raises:
        onnx.shape_inference.InferenceError: of a graph that contradicts itself, if ``strict``.
    """
    return onnx.shape_inference.infer_shapes(bare, strict_mode=strict, data_prop=longest(bare) is None)


def longest(model: onnx.ModelProto) -> tuple[str, int] | None:
    """The first Range over constants with more than LONGEST numbers: its name and how many."""
    nodes = list(model.graph.node)
    if not any(node.op_type == "Range" for node in nodes):
        return None
    values = _constants(model.graph)
    for node in nodes:
        known = [values[name] for name in node.input if name in values]
        if len(known) < len(node.input):
            continue
        if node.op_type == "Range":
            start, limit, delta = (float(np.ravel(v)[0]) if np.size(v) else 0.0 for v in known)
            count = (limit - start) / delta if delta else 0.0
            if not count < LONGEST:
                return node.name or node.output[0], int(count) if np.isfinite(count) else LONGEST
        elif node.op_type in _arithmetic.OPERATORS and node.input:
            values |= _computed(node, values)
    return None


def _constants(graph: onnx.GraphProto) -> dict[str, Any]:
    """Small integers known without any input: initializers, Constant nodes, shapes of inputs of known size."""
    found: dict[str, Any] = {}
    for tensor in graph.initializer:
        if np.prod(tensor.dims) <= _SMALL and tensor.data_location != onnx.TensorProto.EXTERNAL:
            found[tensor.name] = numpy_helper.to_array(tensor)
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    for node in graph.node:
        if node.op_type == "Constant":
            found |= _computed(node, {})
        elif node.op_type == "Shape" and all(sizes.get(node.input[0], [0])):
            bounds = {a.name: a.i for a in node.attribute}
            part = sizes[node.input[0]][bounds.get("start", 0) : bounds.get("end")]
            found[node.output[0]] = np.array(part, np.int64)
    return found


def _computed(node: onnx.NodeProto, values: dict[str, Any]) -> dict[str, Any]:
    try:
        results = ReferenceEvaluator(node).run(None, {name: values[name] for name in node.input if name})
    except Exception:  # the reference implementation raises whatever numpy does; then the value is not known
        return {}
    return {n: r for n, r in zip(node.output, results, strict=False) if isinstance(r, np.ndarray) and r.size <= _SMALL}
