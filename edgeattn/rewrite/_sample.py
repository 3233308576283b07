"""Tiny graphs in ONNX's textual form, for the examples and near misses of rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx


def graph(text: str, *, opset: int = 18, producer: str = "", **weights: Any) -> onnx.ModelProto:
    """A model from ``(float[batch,8,6,6] x) => (float[batch,8] y) { y = … }``.

    Args:
        text: the graph without its name; node outputs double as node names.
        opset: opset of the standard domain.
        producer: exporter to name.
        weights: initializers; a tuple is the shape of seeded normal floats, an array or number is itself.
    """
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> sample {text}')
    model.producer_name = producer
    rng = np.random.default_rng(0)
    for name, weight in weights.items():
        array = (0.5 * rng.standard_normal(weight)).astype(np.float32) if isinstance(weight, tuple) else weight
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for node in model.graph.node:
        node.name = f"node_{node.output[0]}"
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def f32(*numbers: float) -> Any:
    """A float32 scalar, or vector when several numbers are given."""
    return np.array(numbers if len(numbers) > 1 else numbers[0], np.float32)


def i64(*numbers: int) -> Any:
    """An int64 vector."""
    return np.array(numbers, np.int64)
