"""Shape arithmetic on small integer tensors: what exporters compute sizes with, by ONNX's rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from edgeattn.rewrite._view import attr, const

Array: TypeAlias = np.ndarray[Any, Any]

_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Equal": np.equal,
    "Less": np.less,
    "Greater": np.greater,
}
_REDUCING: dict[str, Callable[[Array, Array], Array]] = {"Min": np.minimum, "Max": np.maximum}
# None of these makes something large out of something small; the reference implementation does the rest of them.
OPERATORS = frozenset(
    {"Constant", "Identity", "Cast", "Concat", "Gather", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Flatten"}
    | {"Div", "Mod", "Neg", "Abs", "Where", "ReduceProd", *_BINARY, *_REDUCING}
)


def evaluate(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> Array | None:
    """The node's output; None where it cannot be told.

    Raises:
        ValueError: the node is not defined for these inputs.
    """
    given = [a for a in inputs if a is not None]
    kind = node.op_type
    if kind in _BINARY:
        return np.asarray(_BINARY[kind](*given))
    if kind in _REDUCING and len(given) == 2:
        return np.asarray(_REDUCING[kind](*given))
    if kind == "Div":
        return _quotient(*given)
    if kind == "Identity":
        return given[0]
    if kind == "Constant":
        return const(node.outputs[0])
    if kind == "Concat":
        return np.concatenate(given, int(attr(node, "axis", 0)))
    if kind == "Gather":
        return np.asarray(np.take(given[0], given[1], int(attr(node, "axis", 0)), mode="raise"))
    if kind == "Cast" and attr(node, "to") in (ir.DataType.INT64, ir.DataType.INT32):
        return given[0].astype(np.int64 if attr(node, "to") == ir.DataType.INT64 else np.int32)
    return _by_reference(node, inputs, opset)


def _quotient(a: Array, b: Array) -> Array:
    """Integer division, truncated towards zero. (ONNX Div)"""
    if not np.all(b):
        raise ValueError("division by zero")
    return np.asarray(np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b)), a.dtype)


def _by_reference(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> Array:
    proto = ir.serde.serialize_node(node)
    del proto.metadata_props[:]
    names = {name: array for name, array in zip(proto.input, inputs, strict=True) if name and array is not None}
    specs = [onnx.helper.make_tensor_value_info(name, 0, None) for name in (*names, *proto.output)]
    graph = onnx.helper.make_graph([proto], "one", specs[: len(names)], specs[len(names) :])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        results: Any = ReferenceEvaluator(model).run(None, names)
        return np.asarray(results[0])
    except Exception as error:  # the reference raises what numpy raises, and more
        raise ValueError(str(error)) from error
