"""How a planted graph is written down."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

Graphs = Iterator[tuple[str, onnx.ModelProto]]


Spec = tuple[str, int, Sequence[int | str] | None]


X: Spec = ("x", T.FLOAT, (2, 3, 8, 8))


Y: Spec = ("y", T.FLOAT, None)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    stored: dict[str, Any] | None = None,
    opset: int = 18,
    ir: int = 10,
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model of one graph; ``stored`` are initializers, arrays or TensorProtos."""
    tensors = [
        v if isinstance(v, onnx.TensorProto) else numpy_helper.from_array(np.asarray(v), n)
        for n, v in (stored or {}).items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "main",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        tensors,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions))
    try:
        inferred = onnx.shape_inference.infer_shapes(made).graph
    except onnx.shape_inference.InferenceError:  # the trait that is planted may be just that
        return made
    for ours, theirs in zip(made.graph.output, inferred.output, strict=True):
        ours.CopyFrom(theirs)
    return made


def with_values(made: onnx.ModelProto, **values: Any) -> onnx.ModelProto:
    """The model with values of inputs noted that an engine takes for shapes when it builds."""
    for name, value in values.items():
        told = made.metadata_props.add()
        told.key, told.value = name, json.dumps(np.asarray(value).reshape(-1).tolist())
    return made


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node; inputs and outputs separated by blanks, ``-`` for one that is not given."""
    names = [[] if not text else ["" if n == "-" else n for n in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *names, name=f"{op}_{names[1][0]}", **attributes)


def i64(*values: int) -> np.ndarray[Any, Any]:
    """A vector of indices."""
    return np.asarray(values, np.int64)


def f32(*shape: int) -> np.ndarray[Any, Any]:
    """Weights."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def constant(name: str, value: np.ndarray[Any, Any]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
