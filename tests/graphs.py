"""Small ONNX graphs as text, for tests that need one without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


def model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, list[int | str]],
    outputs: Mapping[str, list[int | str] | None],
    constants: Arrays | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """A float32 graph; shapes with names for dynamic dimensions."""
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def conv_net(channels: int = 16, seed: int = 0) -> onnx.ModelProto:
    """image (batch, 3, 8, 8) -> conv 3x3 -> relu -> conv 3x3 -> relu -> mean -> (batch, channels)."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.standard_normal((channels, 3, 3, 3)).astype(np.float32) * 0.3,
        "b1": rng.standard_normal(channels).astype(np.float32) * 0.1,
        "w2": rng.standard_normal((channels, channels, 3, 3)).astype(np.float32) * 0.1,
        "b2": rng.standard_normal(channels).astype(np.float32) * 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["features"], name="flatten"),
    ]
    return model(nodes, {"image": ["batch", 3, 8, 8]}, {"features": ["batch", channels]}, weights)


def counter() -> tuple[dict[str, onnx.ModelProto], dict[str, Any]]:
    """A two-graph program that counts: the encoder gives a start, each step adds one and says the sum's one-hot.

    Its tokens are start + 1, start + 2 …; the sequence ends at token 5 of 8.
    """
    size = 8
    encoder = model(
        [helper.make_node("Identity", ["begin"], ["total"], name="start")],
        {"begin": ["batch", 1]},
        {"total": ["batch", 1]},
    )
    nodes = [
        helper.make_node("Add", ["total", "one"], ["total_out"], name="count"),
        helper.make_node("Sub", ["total_out", "classes"], ["distance"], name="distance"),
        helper.make_node("Abs", ["distance"], ["absolute"], name="absolute"),
        helper.make_node("Neg", ["absolute"], ["logits"], name="negative"),
        helper.make_node("Cast", ["token"], ["token_float"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("Identity", ["token_float"], ["echo"], name="echo"),
    ]
    constants = {"one": np.ones((1, 1), np.float32), "classes": np.arange(size, dtype=np.float32)[None]}
    step = model(nodes, {"total": ["batch", 1]}, {"total_out": ["batch", 1], "logits": ["batch", size]}, constants)
    step.graph.input.append(helper.make_tensor_value_info("token", TensorProto.INT64, ["batch"]))
    step.graph.output.append(helper.make_tensor_value_info("echo", TensorProto.FLOAT, ["batch"]))
    wiring = {
        "feeds": {"step.total": "encoder.total"},
        "state": {"step.total": "step.total_out"},
        "stop": {"token": "step.token", "emits": "step.logits", "start": 0, "end": 5, "max_steps": 7},
    }
    return {"encoder": encoder, "step": step}, wiring
