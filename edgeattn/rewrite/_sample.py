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


def spatial_gate(batch: Any, channels: int, height: Any, width: Any) -> onnx.ModelProto:
    """CBAM's spatial gate on a map of any size: maximum and mean over the channels, a 7×7 convolution, a sigmoid."""
    size = f"{batch},{channels},{height},{width}"
    return graph(
        f"""(float[{size}] x) => (float[{size}] y) {{
            peak = ReduceMax(x, axes)
            mean = ReduceMean(x, axes)
            both = Concat <axis = 1> (peak, mean)
            logit = Conv <pads = [3, 3, 3, 3]> (both, weight)
            mask = Sigmoid(logit)
            y = Mul(x, mask) }}""",
        axes=i64(1),
        weight=(1, 2, 7, 7),
    )


def channel_gate(batch: Any, channels: int, height: Any, width: Any, hidden: int, *, flat: bool) -> onnx.ModelProto:
    """CBAM's channel gate on a map of any size, its shared MLP spelled with Gemm on (N, C) or with 1×1 Conv.

    Args:
        batch, channels, height, width: the map's dimensions; names for dynamic ones.
        hidden: width of the MLP between its layers.
        flat: spell the MLP with Gemm.
    """
    size = f"{batch},{channels},{height},{width}"
    layer, weights = ("Gemm <transB = 1>", ()) if flat else ("Conv", (1, 1))
    enter, leave = ("Flatten(", "Unsqueeze(sum, last)") if flat else ("Identity(", "Identity(sum)")
    constants = {"last": i64(2, 3)} if flat else {}
    return graph(
        f"""(float[{size}] x) => (float[{size}] y) {{
            mean = GlobalAveragePool(x)
            peak = GlobalMaxPool(x)
            a = {enter}mean)
            m = {enter}peak)
            a1 = {layer} (a, w1, b1)
            ar = Relu(a1)
            a2 = {layer} (ar, w2, b2)
            m1 = {layer} (m, w1, b1)
            mr = Relu(m1)
            m2 = {layer} (mr, w2, b2)
            sum = Add(a2, m2)
            logit = {leave}
            mask = Sigmoid(logit)
            y = Mul(x, mask) }}""",
        w1=(hidden, channels, *weights),
        b1=(hidden,),
        w2=(channels, hidden, *weights),
        b2=(channels,),
        **constants,
    )
