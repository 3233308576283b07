"""The graph as the recogniser reads it: what depends on data, what only moves or renames values, and small numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.graphs import GraphIndex, attributes
from edgeattn.recognise._sizes import Sizes

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array

FIXED, SIZED, DATA = 0, 1, 2  # known beforehand; known once the inputs' sizes are; computed from the inputs
QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
SAME = QDQ | {"Identity", "Cast", "CastLike", "Dropout"}
MOVING = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose"})
COPYING = frozenset({"Expand", "Tile"})
LAYOUT = SAME | MOVING | COPYING
_SIZES = frozenset({"Shape", "Size"})
_LARGEST = 1 << 22  # elements of a constant that are looked at one by one
_DEPTH = 32

Dims = tuple["int | str", ...]


class Graph(GraphIndex):
    """A GraphIndex that also knows levels, roots and numbers; it is total: what cannot be told is None."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self.nodes = [n for n in self.nodes if n.output]
        self._numbers: dict[str, float | None] = {}
        self._attributes: dict[int, dict[str, Any]] = {}
        self._places = {n.output[0]: i for i, n in enumerate(self.nodes)}
        self.inputs = {v.name for v in model.graph.input} - set(self._initializers)

    @cached_property
    def _levels(self) -> dict[str, int]:
        levels = dict.fromkeys(self._initializers, FIXED) | {"": FIXED}
        for node in self.nodes:
            level = max((levels.get(name, DATA) for name in node.input), default=FIXED)
            if node.op_type in _SIZES:
                level = min(level, SIZED)
            elif any(a.HasField("g") or a.graphs for a in node.attribute) or "Random" in node.op_type:
                level = DATA
            levels.update(dict.fromkeys(node.output, level))
        return levels

    def level(self, name: str) -> int:
        """FIXED, SIZED or DATA."""
        return self._levels.get(name, DATA)

    def is_constant(self, name: str) -> bool:
        """Whether the value is known before any input, also behind Transposes or DequantizeLinears of constants."""
        return self.level(name) == FIXED

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """Attributes of a node, read once."""
        key = id(node)
        if key not in self._attributes:
            try:
                self._attributes[key] = attributes(node)
            except (ValueError, TypeError, AttributeError):  # an attribute without a type, in a damaged file
                self._attributes[key] = {}
        return self._attributes[key]

    def place(self, node: onnx.NodeProto) -> int:
        """Where a node stands in the graph."""
        return self._places[node.output[0]]

    def made_by(self, name: str, *ops: str) -> onnx.NodeProto | None:
        """The node that makes a value, if it is one of these operators."""
        node = self.producer.get(name)
        return node if node is not None and node.op_type in ops else None

    def dims(self, name: str) -> Dims | None:
        """Shape of a value, constants included; None where it is unknown."""
        return self._filled.get(name) or self.inferred(name)

    def inferred(self, name: str) -> Dims | None:
        """As ``dims``, as ONNX's own inference knows it."""
        if name in self._initializers:
            return tuple(self._initializers[name].dims)
        return self.shape(name)

    @cached_property
    def _filled(self) -> dict[str, Dims]:
        return Sizes(self).fill()

    def rank(self, name: str) -> int | None:
        """Number of dimensions, None where it is unknown."""
        found = self.dims(name)
        return None if found is None else len(found)

    def root(self, name: str, through: frozenset[str] = SAME | MOVING) -> str:
        """The value behind nodes that only move, rename, cast or quantize."""
        return self.aliases(name, through)[-1]

    def aliases(self, name: str, through: frozenset[str] = SAME | MOVING) -> list[str]:
        """The value and those it is a rearrangement of, nearest first."""
        found = [name]
        node = self.producer.get(name)
        while node is not None and node.op_type in through and node.input and len(found) < _DEPTH:
            if node.input[0] in found:
                break
            found.append(node.input[0])
            node = self.producer.get(node.input[0])
        return found

    def data_inputs(self, node: onnx.NodeProto) -> list[str]:
        """What a node reads that comes from the inputs' data; no sizes, and of a layout operator no target shape."""
        names = node.input[:1] if node.op_type in LAYOUT | {"Slice"} else node.input
        return [n for n in names if n and self.level(n) == DATA]

    def axes(self, node: onnx.NodeProto) -> list[int] | None:
        """The axes attribute or input of a node as written; None if there are none or they are computed."""
        found = self.attributes(node).get("axes")
        if found is None and len(node.input) > 1 and node.input[1]:
            value = self.array(node.input[1])
            found = None if value is None else value.reshape(-1).tolist()
        return None if found is None else [int(a) for a in np.atleast_1d(found)]

    def array(self, name: str, depth: int = 0) -> Array | None:
        """A constant's value, also behind casts, reshapes, dequantization and arithmetic; None for a large one."""
        if name in self._initializers:
            tensor = self._initializers[name]
            if np.prod(tensor.dims, dtype=np.float64) > _LARGEST:
                return None
        node = self.producer.get(name)
        try:
            if node is None or node.op_type == "Constant":
                return self._stored(name, node)
            known = _FOLDS.get(node.op_type)
            if known is None or depth > 8 or not self.is_constant(name):
                return None
            values = [self.array(n, depth + 1) for n in node.input if n]
            return None if any(v is None for v in values) else np.asarray(known(self.attributes(node), *values))
        except Exception:  # a damaged tensor, or operands that do not fit: no number then
            return None

    def _stored(self, name: str, node: onnx.NodeProto | None) -> Array | None:
        if node is None or "value" in self.attributes(node):
            return self.constant(name)
        kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        found = [(kinds[k], v) for k, v in self.attributes(node).items() if k in kinds]
        return np.array(found[0][1], found[0][0]) if found else None

    def number(self, name: str) -> float | None:
        """The number behind a constant all of whose elements are equal; None otherwise."""
        if name not in self._numbers:
            value = self.array(name) if name and self.is_constant(name) else None
            same = (
                value is not None
                and value.size > 0
                and value.dtype.kind in "fiub"
                and bool((value == value.flat[0]).all())
            )
            self._numbers[name] = float(value.flat[0]) if same and value is not None else None
        return self._numbers[name]

    def is_one(self, name: str) -> bool:
        """Whether a constant is 1, or what quantization makes of it."""
        number = self.number(name)
        return number is not None and abs(number - 1) < 1e-3

    def operand(self, node: onnx.NodeProto) -> tuple[str, str] | None:
        """Of a node with two operands the data and the one that is no data; None if both or neither are data."""
        if len(node.input) != 2:
            return None
        a, b = node.input
        if (self.level(a) == DATA) == (self.level(b) == DATA):
            return None
        return (a, b) if self.level(a) == DATA else (b, a)

    def weight(self, node: onnx.NodeProto) -> Dims | None:
        """Shape of a layer's constant weight; None where the node is no layer with one.

        Conv ``(out, in, …)``; Gemm and MatMul ``(in, out)``, transposed or not as the node says.
        """
        if node.op_type not in ("Conv", "Gemm", "MatMul") or len(node.input) < 2:
            return None
        fixed = [n for n in node.input[:2] if self.level(n) < DATA]
        shape = self.dims(fixed[0]) if len(fixed) == 1 else None
        if shape is None or (node.op_type == "Gemm" and self.attributes(node).get("transB")):
            return shape[::-1] if shape else None
        return shape

    def back(self, start: str, most: int = 64) -> Iterator[onnx.NodeProto]:
        """Nodes that the data of a value comes from, nearest first, each once, at most so many."""
        return self._behind(start, most, self.data_inputs)

    def back_all(self, start: str, most: int = 64) -> Iterator[onnx.NodeProto]:
        """As ``back``, through what sizes and constants alone make as well."""
        return self._behind(start, most, lambda node: [n for n in node.input if n])

    def _behind(self, start: str, most: int, inputs: Callable[[onnx.NodeProto], list[str]]) -> Iterator[onnx.NodeProto]:
        seen: set[str] = set()
        queue = [start]
        for name in queue:
            node = self.producer.get(name)
            if node is None or node.output[0] in seen or len(seen) >= most:
                continue
            seen.add(node.output[0])
            yield node
            queue += inputs(node)

    @cached_property
    def _shapes(self) -> Mapping[str, Dims]:
        import onnx

        from edgeattn.graphs import _spec, without_weights

        try:
            light = without_weights(self.model)
            _unwrap_constants(light.graph)
            inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
        except Exception:  # a graph that breaks an operator's rules is still looked at, without sizes
            inferred = self.model
        graph = inferred.graph
        values = [*graph.input, *graph.value_info, *graph.output]
        return {v.name: _spec(v).shape for v in values if v.type.tensor_type.HasField("shape")}


def _unwrap_constants(graph: onnx.GraphProto) -> None:
    """Constants behind Identity nodes become constants: shape inference does not look through them."""
    stored = {t.name: t for t in graph.initializer}
    given = {v.name for v in (*graph.input, *graph.output)}
    kept = []
    for node in graph.node:
        if node.op_type == "Constant":
            stored.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        name = node.input[0] if node.op_type == "Identity" and node.input else ""
        tensor = stored.get(name)
        if tensor is None or name in given or node.output[0] in given:
            kept.append(node)
            continue
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = node.output[0]
        stored[copy.name] = copy
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _dequantized(_: Mapping[str, Any], x: Array, scale: Array, zero: Array | None = None) -> Array:
    moved = x.astype(np.float32) - (0 if zero is None else zero.astype(np.float32).reshape(-1)[0])
    return moved * scale.reshape(-1)[0] if scale.size == 1 else moved * np.nan


def _quantized(_: Mapping[str, Any], x: Array, scale: Array, zero: Array | None = None) -> Array:
    kind = np.dtype(np.uint8) if zero is None else zero.dtype
    moved = np.rint(x / scale.reshape(-1)[0]) + (0 if zero is None else zero.astype(np.float32).reshape(-1)[0])
    stored: Array = np.clip(moved, np.iinfo(kind).min, np.iinfo(kind).max).astype(kind)
    return stored


_FOLDS: dict[str, Callable[..., Any]] = {
    "Identity": lambda a, x: x,
    "Cast": lambda a, x: x,
    "CastLike": lambda a, x, _: x,
    "Unsqueeze": lambda a, x, *_: x.reshape(-1) if x.size == 1 else x,
    "Squeeze": lambda a, x, *_: x.reshape(-1) if x.size == 1 else x,
    "Reshape": lambda a, x, *_: x,
    "Expand": lambda a, x, *_: x,
    "Sqrt": lambda a, x: np.sqrt(x),
    "Reciprocal": lambda a, x: 1 / x,
    "Neg": lambda a, x: -x,
    "Add": lambda a, x, y: x + y,
    "Sub": lambda a, x, y: x - y,
    "Mul": lambda a, x, y: x * y,
    "Div": lambda a, x, y: x / y,
    "Pow": lambda a, x, y: x**y,
    "DequantizeLinear": _dequantized,
    "QuantizeLinear": _quantized,
}
