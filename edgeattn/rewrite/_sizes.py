"""Every shape of a graph at concrete input sizes, for equalities that symbols alone cannot prove.

An exporter writes the height behind a strided stem as ``(h - 1) // 4 + 1``; shape inference calls the same height
"unknown". Both are compositions of additions and floor divisions of one input size. Such functions are affine up to
their remainders, so agreeing at the small sizes, where rounding bites, and at runs of neighbours is agreeing always.

A shape is computed when it is asked for, from as few nodes as it takes: a value whose dimensions are numbers and
symbols of the graph's inputs needs none. What was computed once is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgeattn.rewrite import _arithmetic
from edgeattn.rewrite._view import attr, const

# Small sizes, neighbours around powers of two, and sizes where height and width differ.
SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 96, 97, 130, 223, 224, 225)
SMALL = 64  # integer tensors up to this many elements are computed: they are shapes
SAME_SHAPE = frozenset(
    {"Relu", "Sigmoid", "HardSigmoid", "Tanh", "Elu", "Selu", "Celu", "Gelu", "Mish", "HardSwish", "LeakyRelu", "Erf"}
    | {"Softplus", "Softsign", "Clip", "Neg", "Abs", "Sqrt", "Exp", "Log", "Reciprocal", "Floor", "Ceil", "Round"}
    | {"Identity", "Cast", "Not", "IsNaN", "IsInf", "Sign", "Softmax", "LogSoftmax", "BatchNormalization", "Dropout"}
    | {"LayerNormalization", "InstanceNormalization", "LRN", "LpNormalization"}
)
BROADCAST = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Where", "And", "Or", "Xor", "PRelu", "Sum", "Mean"}
    | {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
)
FAILURES = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, ValueError, RuntimeError, TypeError)


def sampled(graph: ir.Graph, opset: int) -> list[Sample]:
    """Shapes of all values at each sample, computed when asked for.

    The symbols of the graph's inputs get different sizes in each sample, in rotation. Where the graph cannot take a
    sample's sizes, its mapping lacks the values behind the node that refuses, and ``defined`` turns False.
    """
    symbols = sorted(
        {d.value for v in graph.inputs for d in v.shape or () if isinstance(d, ir.SymbolicDim) and d.value}
    )
    values = {v.name: v for v in (*graph.inputs, *graph.initializers.values()) if v.name}
    values |= {o.name: o for node in graph for o in node.outputs if o.name}
    protos: dict[ir.Node, onnx.NodeProto] = {}
    return [
        Sample(
            values,
            protos,
            opset,
            {symbol: SIZES[(turn + 5 * place) % len(SIZES)] for place, symbol in enumerate(symbols)},
        )
        for turn in range(len(SIZES))
    ]


class Sample(Mapping[str, tuple[int, ...]]):
    """The shapes at one choice of input sizes.

    Attributes:
        defined: False once a value was asked for that the graph cannot compute at these sizes.
        computed: how many nodes were looked at, for tests that count work.
    """

    def __init__(
        self, values: dict[str, ir.Value], protos: dict[ir.Node, onnx.NodeProto], opset: int, sizes: dict[str, int]
    ) -> None:
        self.defined, self.computed = True, 0
        self._values, self._protos, self._opset, self._sizes = values, protos, opset, sizes
        self._shapes: dict[ir.Value, tuple[int, ...] | None] = {}
        self._arrays: dict[ir.Value, np.ndarray[Any, Any] | None] = {}

    def __getitem__(self, name: str) -> tuple[int, ...]:
        value = self._values.get(name)
        shape = None if value is None else self.shape(value)
        if shape is None:
            raise KeyError(name)
        return shape

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._values if self.get(name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def shape(self, value: ir.Value) -> tuple[int, ...] | None:
        """A value's shape here; None where it cannot be told."""
        self._settle(value, contents=False)
        return self._shapes.get(value)

    def _settle(self, wanted: ir.Value, contents: bool) -> None:
        """Compute what ``wanted`` depends on, producers first, without recursion: graphs are deeper than stacks."""
        stack = [(wanted, contents)]
        while stack:
            value, whole = stack[-1]
            if self._known(value, whole):
                stack.pop()
                continue
            node = value.producer()
            assert node is not None  # _known answers for inputs and initializers
            missing = [need for need in self._needs(node, whole) if not self._known(*need)]
            if missing:
                stack += missing
            else:
                self._compute(node, whole)
                stack.pop()

    def _known(self, value: ir.Value, contents: bool) -> bool:
        """Whether a value is settled; what needs no computation is settled here."""
        if contents:
            if value not in self._arrays and (value.producer() is None or const(value) is not None):
                self._arrays[value] = const(value) if _elements(value) <= SMALL else None
            return value in self._arrays
        if value not in self._shapes:
            told = self._told(value)
            if told is not None or value.producer() is None:
                self._shapes[value] = told
        return value in self._shapes

    def _told(self, value: ir.Value) -> tuple[int, ...] | None:
        """A shape of numbers and input symbols, with these sizes filled in."""
        if value.shape is None:
            return None
        found = [d if isinstance(d, int) else self._sizes.get(d.value or "") for d in value.shape]
        return None if None in found else tuple(d for d in found if d is not None)

    def _needs(self, node: ir.Node, contents: bool) -> list[tuple[ir.Value, bool]]:
        """What must be settled before a node can be computed, and whether its contents are needed."""
        inputs = [v for v in node.inputs if v is not None]
        if node.op_type == "Shape":
            return [(inputs[0], False)]
        if contents:
            return [(v, True) for v in inputs] if node.op_type in _arithmetic.OPERATORS else []
        telling = inputs if node.op_type in ("ConstantOfShape", "Range") else inputs[1:]
        whole = [v for v in telling if v.dtype in (ir.DataType.INT64, ir.DataType.INT32)]
        return [(v, False) for v in inputs] + [(v, True) for v in whole]

    def _compute(self, node: ir.Node, contents: bool) -> None:
        """Settle all outputs of a node; what cannot be told is settled as None."""
        self.computed += 1
        try:
            if contents or node.op_type == "Shape":
                self._evaluate(node)
            else:
                self._infer(node)
        except FAILURES:
            self.defined = False
        for output in node.outputs:
            if contents:
                self._arrays.setdefault(output, None)
            else:
                self._shapes.setdefault(output, None)

    def _evaluate(self, node: ir.Node) -> None:
        """Contents of small integer tensors."""
        if node.op_type == "Shape":
            whole = self._shapes.get(node.inputs[0]) if node.inputs[0] is not None else None
            if whole is not None:
                self._know(node.outputs[0], np.array(whole[attr(node, "start", 0) : attr(node, "end")], np.int64))
            return
        if node.domain != "" or node.op_type not in _arithmetic.OPERATORS:
            return
        arrays = [None if v is None else self._arrays.get(v) for v in node.inputs]
        known = [a is not None and a.dtype.kind in "iub" for v, a in zip(node.inputs, arrays, strict=True) if v]
        if all(known):
            result = _arithmetic.evaluate(node, arrays, self._opset)
            if result is not None and result.size <= SMALL:
                self._know(node.outputs[0], result)

    def _know(self, value: ir.Value, array: np.ndarray[Any, Any]) -> None:
        self._arrays[value] = array
        self._shapes[value] = array.shape

    def _infer(self, node: ir.Node) -> None:
        """Shapes of a node's outputs from those of its inputs."""
        inputs = [None if v is None else self._shapes.get(v) for v in node.inputs]
        if node.domain != "" or any(shape is None for v, shape in zip(node.inputs, inputs, strict=True) if v):
            return
        given = [shape for shape in inputs if shape is not None]
        if node.op_type in SAME_SHAPE:
            self._shapes[node.outputs[0]] = given[0]
        elif node.op_type in BROADCAST:
            self._shapes[node.outputs[0]] = np.broadcast_shapes(*given)
        else:
            self._shapes |= self._inferred(node)

    def _inferred(self, node: ir.Node) -> dict[ir.Value, tuple[int, ...] | None]:
        """By ONNX's own inference for the operator."""
        if node not in self._protos:
            self._protos[node] = ir.serde.serialize_node(node)
            del self._protos[node].metadata_props[:]
        types, data = {}, {}
        for value in node.inputs:
            if value is None or not value.name:
                continue
            if value.dtype is None:
                return {}
            types[value.name] = onnx.helper.make_tensor_type_proto(int(value.dtype), self._shapes[value])
            array = self._arrays.get(value)
            if array is None and _elements(value) <= SMALL:
                array = const(value)
            if array is not None:
                data[value.name] = onnx.numpy_helper.from_array(np.asarray(array), value.name)
        found = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, self._opset, ""),
            self._protos[node],
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid("", self._opset)],
        )
        return {o: _shape(found[o.name]) for o in node.outputs if o.name in found}


def _elements(value: ir.Value) -> int:
    """How many elements a value has; as many as none can have where that is unknown."""
    if value.const_value is not None:
        return int(value.const_value.size)
    shape = value.shape
    if shape is None or not all(isinstance(d, int) for d in shape):
        return 0 if value.producer() is not None else SMALL + 1
    return int(np.prod([int(d) for d in shape if isinstance(d, int)]))


def _shape(kind: onnx.TypeProto) -> tuple[int, ...] | None:
    tensor = kind.tensor_type
    if not tensor.HasField("shape") or any(not d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)
