"""One graph as the checks see it: nodes of every depth, and what is known of each value before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgeattn import outside
from edgeattn.graphs import attributes, opset_of, without_weights
from edgeattn.origin import module_of
from edgeattn.phase import native
from edgeattn.standard import STANDARD_DOMAINS

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array

Dims = tuple["int | str", ...]

_SHAPE_ONLY = frozenset({"Shape", "Size"})
_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


@dataclass(frozen=True)
class Node:
    """A node and where it stands.

    Attributes:
        proto: the node. depth: how many Loop, If or Scan bodies it lies in. inside: operator of the innermost one.
    """

    proto: onnx.NodeProto
    depth: int = 0
    inside: str = ""

    @property
    def op(self) -> str:
        """Its operator."""
        return self.proto.op_type

    @property
    def name(self) -> str:
        """Its name, or its first output's where it has none."""
        return self.proto.name or next(iter(self.proto.output), "") or self.proto.op_type

    @property
    def standard(self) -> bool:
        """Whether it belongs to the standard domain."""
        return self.proto.domain in STANDARD_DOMAINS

    @property
    def module(self) -> str:
        """The PyTorch module that it came from, if that is known."""
        return module_of(self.proto)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attributes as Python values; strings are text."""
        found = attributes(self.proto)
        return {k: v.decode(errors="replace") if isinstance(v, bytes) else v for k, v in found.items()}

    def input(self, place: int) -> str:
        """The value at a place, empty where it is not given."""
        return self.proto.input[place] if place < len(self.proto.input) else ""

    def outputs(self) -> list[int]:
        """The places of the outputs that are given."""
        return [place for place, name in enumerate(self.proto.output) if name]


@dataclass
class View:
    """A graph, its nodes, and the types, shapes and constants of its values.

    Attributes:
        functions: names of the functions that travelled in the model; they are inlined here.
    """

    name: str
    model: onnx.ModelProto
    nodes: list[Node] = field(init=False)
    functions: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.functions = tuple(f.name for f in self.model.functions)
        if self.functions:
            from onnx.inliner import inline_local_functions

            with native("ONNX", "inlining functions"):
                self.model = inline_local_functions(self.model)
        self.nodes = list(_walk(self.model.graph))

    @property
    def opset(self) -> int:
        """The version of the standard domain."""
        return opset_of(self.model)

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        """Stored tensors of every depth, by name."""
        return {t.name: t for graph in self._graphs for t in graph.initializer}

    @cached_property
    def producers(self) -> dict[str, Node]:
        """Who makes a value."""
        return {name: node for node in self.nodes for name in node.proto.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[Node]]:
        """Who reads a value."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.proto.input):
                found.setdefault(name, []).append(node)
        return found

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """What the caller gives: inputs that no stored tensor stands behind."""
        stored = {t.name for t in self.model.graph.initializer}
        return [value for value in self.model.graph.input if value.name not in stored]

    @property
    def outputs(self) -> list[onnx.ValueInfoProto]:
        """What it gives."""
        return list(self.model.graph.output)

    def type_of(self, name: str) -> str:
        """Element type, ``float16`` …; ``sequence`` or ``optional`` for what is no tensor; empty if it is not known."""
        return self._types.get(name, "")

    def shape_of(self, name: str) -> Dims | None:
        """Shape with names for what is not known; None where even the rank is not."""
        return self.shapes.get(name)

    def stored(self, name: str, behind: Sequence[str] = ("Identity",)) -> bool:
        """Whether a value is an initializer or a Constant, also ``behind`` operators that hand it on."""
        node = self.producers.get(name)
        if node is None:
            return name in self.initializers
        return node.op == "Constant" or (node.op in behind and self.stored(node.input(0), behind))

    def behind_identity(self, name: str) -> bool:
        """Whether an Identity makes a value."""
        node = self.producers.get(name)
        return node is not None and node.op == "Identity"

    def known(self, name: str) -> bool:
        """Whether a value follows from constants, and from shapes that are numbers, alone."""
        return name in self._known

    def constant(self, name: str) -> Array | None:
        """The value of what is ``stored``."""
        if name in self.initializers and name not in self.producers:
            return outside.array(self.initializers[name])
        node = self.producers.get(name)
        if node is None or node.op not in ("Constant", "Identity"):
            return None
        if node.op == "Identity":
            return self.constant(node.input(0))
        return _constant_of(node)

    @cached_property
    def _graphs(self) -> list[onnx.GraphProto]:
        return list(_graphs(self.model.graph))

    @cached_property
    def _known(self) -> frozenset[str]:
        found = set(self.initializers) - {v.name for v in self.model.graph.input}
        found |= {t.name for t in self.model.graph.initializer}
        for node in self.nodes:
            if node.op in _RANDOM or bodies(node.proto):
                continue
            if node.op in _SHAPE_ONLY and _static(self.shape_of(node.input(0))):
                found |= set(node.proto.output)
            elif all(name in found for name in node.proto.input if name):
                found |= {name for name in node.proto.output if name}
        return frozenset(found)

    @cached_property
    def _inferred(self) -> onnx.ModelProto:
        import onnx

        light = without_weights(self.model)
        try:
            with native("ONNX", "inferring shapes"):
                return onnx.shape_inference.infer_shapes(light, data_prop=True)
        except Exception:  # what cannot be inferred is unknown; the engine or the checker tells what is wrong with it
            return light

    @cached_property
    def _values(self) -> list[onnx.ValueInfoProto]:
        graphs = list(_graphs(self._inferred.graph))
        return [v for g in graphs for v in (*g.input, *g.value_info, *g.output)]

    @cached_property
    def _types(self) -> dict[str, str]:
        import onnx

        found = {name: _named(tensor.data_type) for name, tensor in self.initializers.items()}
        for info in self._values:
            kind = info.type.WhichOneof("value")
            if kind == "tensor_type" and info.type.tensor_type.elem_type:
                found[info.name] = _named(info.type.tensor_type.elem_type)
            elif kind not in (None, "tensor_type"):
                found[info.name] = str(kind).removesuffix("_type").removesuffix("_tensor")
        for node in self.nodes:
            if node.op == "Constant" and node.proto.output[0] not in found:
                value = node.attributes.get("value")
                if isinstance(value, onnx.TensorProto):
                    found[node.proto.output[0]] = _named(value.data_type)
        return found

    @cached_property
    def shapes(self) -> dict[str, Dims]:
        found: dict[str, Dims] = {}
        for value in self._values:
            if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                found[value.name] = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)
        return found | {name: tuple(tensor.dims) for name, tensor in self.initializers.items()}


def since(op: str, opset: int) -> int:
    """The opset in which an operator got the definition that it has in this one; 0 where it has none."""
    import onnx

    try:
        return int(onnx.defs.get_schema(op, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0


def types_of(view: View, node: Node) -> str:
    """``float>int64``: the types of a node's first input and output; empty where either is not known."""
    went = view.type_of(node.input(0)) if node.input(0) else "nothing"
    came = view.type_of(node.proto.output[0])
    return f"{went}>{came}" if went and came else ""


def _named(kind: int) -> str:
    import onnx

    try:
        return str(onnx.TensorProto.DataType.Name(kind)).lower()
    except ValueError:
        return f"type {kind}"


def _static(shape: Dims | None) -> bool:
    return shape is not None and all(isinstance(dim, int) for dim in shape)


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside a node."""
    return [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]


def _walk(graph: onnx.GraphProto, depth: int = 0, inside: str = "") -> Iterator[Node]:
    for proto in graph.node:
        yield Node(proto, depth, inside)
        for body in bodies(proto):
            yield from _walk(body, depth + 1, proto.op_type)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from _graphs(body)


def _constant_of(node: Node) -> Array | None:
    import numpy as np
    import onnx

    for name, value in node.attributes.items():
        if isinstance(value, onnx.TensorProto):
            return outside.array(value)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
    return None
