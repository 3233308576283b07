"""Reading an ONNX graph: specs, neighbours, constants, and the counts that reports print. Nothing here edits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn import outside
from edgeattn.phase import native
from edgeattn.program import TensorSpec, free_inputs

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array, Program

MAC_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "MatMulInteger", "ConvInteger"})
_RECURRENT = ("LSTM", "GRU", "RNN")
_COUNTED = ("Conv", "Gemm", "MatMul", "QLinearConv", "ConvInteger", "MatMulInteger", *_RECURRENT)
_TYPICAL = {"batch": 1, "height": 224, "width": 224}
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}


def input_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """The inputs a caller gives (graph inputs that are not initializers)."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(_spec(value) for value in model.graph.input if value.name not in stored)


def output_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """The graph outputs."""
    return tuple(_spec(value) for value in model.graph.output)


def program_inputs(program: Program) -> list[TensorSpec]:
    """The inputs a user of the whole program gives."""
    return free_inputs({name: input_specs(model) for name, model in program.graphs.items()}, program.wiring)


def histogram(program: Program) -> dict[str, int]:
    """How many nodes of each operator type, over all graphs, most frequent first."""
    counts = Counter(node.op_type for model in program.graphs.values() for node in model.graph.node)
    return dict(counts.most_common())


def domains(program: Program) -> list[str]:
    """Operator domains in use; the standard one reads ``ai.onnx``."""
    return sorted({n.domain or "ai.onnx" for model in program.graphs.values() for n in model.graph.node})


def parameters(model: onnx.ModelProto) -> int:
    """Weights: elements of floating-point or INT8 initializers and constants, but scalars, scales and zero points."""
    qdq = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales = {name for node in qdq for name in node.input[1:]}
    weights = [(t.name, t) for t in model.graph.initializer]
    weights += [
        (n.output[0], a.t) for n in model.graph.node if n.op_type == "Constant" for a in n.attribute if a.t.dims
    ]
    stored = [(name, t) for name, t in weights if t.data_type in (1, 3, 10, 11, 16) and t.dims]
    return sum(int(np.prod(t.dims)) for name, t in stored if name not in scales)


class GraphIndex:
    """Producers, consumers, constants and static shapes of one graph, by value name."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.producer = {name: node for node in self.nodes for name in node.output if name}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {value.name for value in model.graph.output}
        self._initializers = {tensor.name: tensor for tensor in model.graph.initializer}

    def constant(self, name: str) -> Array | None:
        """The value of an initializer or Constant node, else None; also behind Identity nodes."""
        name = self._unwrapped(name)
        if name in self._initializers:
            return outside.array(self._initializers[name])
        node = self.producer.get(name)
        if node is not None and node.op_type == "Constant":
            return outside.array(attributes(node)["value"]) if "value" in attributes(node) else None
        return None

    def is_constant(self, name: str) -> bool:
        """Whether the value is known before any input."""
        name = self._unwrapped(name)
        node = self.producer.get(name)
        return name in self._initializers or (node is not None and node.op_type == "Constant")

    def constant_shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a constant without decoding its data."""
        name = self._unwrapped(name)
        if name in self._initializers:
            return tuple(self._initializers[name].dims)
        value = self.constant(name)
        return None if value is None else value.shape

    def _unwrapped(self, name: str) -> str:
        """The value behind Identity nodes; a file that is not sorted may have them in a ring."""
        for _ in self.nodes:
            node = self.producer.get(name)
            if node is None or node.op_type != "Identity":
                break
            name = node.input[0]
        return name

    def shape(self, name: str) -> tuple[int | str, ...] | None:
        """Inferred shape of a value, None where it is unknown."""
        return self._shapes.get(name)

    @cached_property
    def _shapes(self) -> Mapping[str, tuple[int | str, ...]]:
        import onnx

        try:
            with native("ONNX", "inferring shapes"):
                inferred = onnx.shape_inference.infer_shapes(without_weights(self.model))
        except onnx.shape_inference.InferenceError:
            inferred = self.model
        graph = inferred.graph
        values = [*graph.input, *graph.value_info, *graph.output]
        return {v.name: _spec(v).shape for v in values if v.type.tensor_type.HasField("shape")}


def with_outputs(model: onnx.ModelProto, values: Iterable[str]) -> onnx.ModelProto:
    """A copy of a graph that also gives these float values."""
    import onnx

    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    present = {v.name for v in (*tapped.graph.output, *tapped.graph.input)}
    for name in values:
        if name not in present:
            tapped.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return tapped


def packed_weights(model: onnx.ModelProto) -> list[str]:
    """Matrices stored in INT8: weights that somebody quantized."""
    return [t.name for t in model.graph.initializer if t.data_type in (2, 3) and len(t.dims) > 1]


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard domain, 0 if it is not imported."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node as Python values (tensors stay TensorProto)."""
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def multiply_accumulates(model: onnx.ModelProto, sizes: Mapping[str, int] | None = None) -> int:
    """Multiply-accumulates of one run: Conv, Gemm, MatMul and recurrent layers with constant weights, the papers'
    "FLOPs".

    Args:
        model: one graph.
        sizes: dynamic dimension -> size; by default batch 1 at 224 x 224, told by their place in an input where their
            names tell nothing. A dimension left unknown counts as 1.
    """
    return sum(macs_by_node(model, sizes).values())


def macs_by_node(model: onnx.ModelProto, sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """Multiply-accumulates of each weighted node by its name (its first output's, if it has none).

    Those inside a node, such as a Loop's body, are counted once: how often it runs is known only then.
    """
    found = _macs(GraphIndex(model), GraphIndex(_at_sizes(model, {**_TYPICAL, **(sizes or {})})))
    within = dict(bodies(model))
    if within:
        known = dict(bodies(_with_shapes(model, sizes)))
        for place, body in within.items():
            found |= _macs(GraphIndex(body), _Noted(known[place]))
    return found


def _macs(index: GraphIndex, shapes: GraphIndex) -> dict[str, int]:
    weighted = [n for n in index.nodes if n.op_type in _COUNTED]
    return {n.name or n.output[0]: _node_macs(index, shapes, n) for n in weighted}


def _with_shapes(model: onnx.ModelProto, sizes: Mapping[str, int] | None) -> onnx.ModelProto:
    """The graph with the shapes of its values noted, those inside its nodes among them."""
    import onnx

    sized = _at_sizes(model, {**_TYPICAL, **(sizes or {})})
    try:
        with native("ONNX", "inferring shapes"):
            return onnx.shape_inference.infer_shapes(sized)
    except onnx.shape_inference.InferenceError:
        return sized


class _Noted(GraphIndex):
    """A graph whose shapes are those noted in it: values from around it are unknown to an inference of its own."""

    @cached_property
    def _shapes(self) -> Mapping[str, tuple[int | str, ...]]:
        graph = self.model.graph
        return {v.name: _spec(v).shape for v in (*graph.input, *graph.value_info, *graph.output)}


def bodies(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The graphs inside nodes, such as a Loop's body: ``(place, the graph as a model)``, outer ones first."""
    import onnx

    for node in model.graph.node:
        for attribute in node.attribute:
            for number, graph in enumerate([attribute.g] if attribute.HasField("g") else attribute.graphs):
                place = f"{node.name or node.output[0]}/{attribute.name}/{number}"
                inner = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)
                yield place, inner
                yield from ((f"{place}/{deeper}", body) for deeper, body in bodies(inner))


def _at_sizes(model: onnx.ModelProto, sizes: Mapping[str, int]) -> onnx.ModelProto:
    light = without_weights(model)
    for value in light.graph.input:
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            place = "batch" if axis == 0 else "height" if axis >= 2 and len(dims) == 4 else ""
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
            elif not dim.HasField("dim_value") and len(dims) > 1 and place:  # names of other exporters say nothing
                dim.dim_value = sizes[place]
    for value in light.graph.output:
        value.type.tensor_type.ClearField("shape")
    return light


def typical_values(model: onnx.ModelProto) -> Iterator[tuple[str, list[int], str]]:
    """Every value whose shape can be inferred: its name, its shape, and its dtype.

    Dynamic dimensions take their typical size, unnamed ones count as 1.
    """
    import onnx

    sized = _at_sizes(model, _TYPICAL)
    try:
        with native("ONNX", "inferring shapes"):
            sized = onnx.shape_inference.infer_shapes(sized)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
        return
    for value in (*sized.graph.input, *sized.graph.value_info, *sized.graph.output):
        kind = value.type.tensor_type
        shape = [max(dim.dim_value, 1) if dim.HasField("dim_value") else 1 for dim in kind.shape.dim]
        yield value.name, shape, _DTYPES.get(kind.elem_type, "uint8")


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """``TensorProto.DataType`` of every value of a graph that has one and can be inferred, constants included."""
    import onnx

    try:
        with native("ONNX", "inferring types"):
            graph = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    except onnx.shape_inference.InferenceError:
        graph = model.graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    found |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {name: kind for name, kind in found.items() if kind}


def _node_macs(index: GraphIndex, shapes: GraphIndex, node: onnx.NodeProto) -> int:
    if node.op_type in _RECURRENT:
        return _recurrent_macs(index, shapes, node)
    held = node.input[3 if node.op_type == "QLinearConv" else 1]
    weight, shape = index.constant_shape(_weight_source(index, held)), shapes.shape(node.output[0])
    if weight is None or shape is None:
        return 0
    sizes = [d if isinstance(d, int) else 1 for d in shape]
    if node.op_type in ("Conv", "ConvInteger", "QLinearConv"):
        return int(np.prod(sizes)) * int(np.prod(weight[1:]))
    inner = weight[0] if node.op_type != "Gemm" or not attributes(node).get("transB") else weight[1]
    return int(np.prod(sizes)) * int(inner)


def _recurrent_macs(index: GraphIndex, shapes: GraphIndex, node: onnx.NodeProto) -> int:
    """Both weights ``(directions, gates · H, …)`` once for every position and sample of ``(S, B, I)``."""
    weights = [index.constant_shape(_weight_source(index, name)) for name in node.input[1:3]]
    shape = shapes.shape(node.input[0])
    if shape is None or any(weight is None for weight in weights):
        return 0
    positions = [d if isinstance(d, int) else 1 for d in shape[:2]]
    return int(np.prod(positions)) * sum(int(np.prod(weight)) for weight in weights if weight is not None)


def _weight_source(index: GraphIndex, name: str) -> str:
    """Look through what unpacks a stored weight: a DequantizeLinear, a Cast, the product with its scales behind one."""
    node = index.producer.get(name)
    if node is not None and node.op_type == "Mul" and index.is_constant(node.input[1]):
        unpacked = index.producer.get(node.input[0])
        node = unpacked if unpacked is not None and unpacked.op_type == "Cast" else None
    if node is not None and node.op_type in ("DequantizeLinear", "Cast"):
        return _weight_source(index, node.input[0])
    return name


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for shape inference: large float initializers become inputs, so nothing heavy is serialised."""
    import onnx

    light = onnx.ModelProto()
    light.ir_version = max(model.ir_version, 4)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name or "main"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    known = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims)) <= 1024:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def walk_back(index: GraphIndex, start: str) -> Iterator[onnx.NodeProto]:
    """Nodes that feed a value, nearest first, each once."""
    seen: set[str] = set()
    queue = [start]
    while queue:
        node = index.producer.get(queue.pop(0))
        if node is not None and node.output[0] not in seen:
            seen.add(node.output[0])
            yield node
            queue.extend(node.input)


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in tensor.shape.dim)
    return TensorSpec(value.name, _DTYPES.get(tensor.elem_type, f"type{tensor.elem_type}"), shape)
