"""Cutting a region out of a graph: which nodes, what flows in and out, and a model of them alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from edgeattn.program import Array


class Graph:
    """A graph with who makes and who reads every value.

    Attributes:
        model: the whole model, its ``value_info`` inferred.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._nodes = list(model.graph.node)
        self._reads = [_read_by(node) for node in self._nodes]
        self._makers = {name: i for i, node in enumerate(self._nodes) for name in node.output if name}
        self._readers: dict[str, list[int]] = {}
        for i, names in enumerate(self._reads):
            for name in names:
                self._readers.setdefault(name, []).append(i)

    def around(self, values: Iterable[str], radius: int) -> list[int]:
        """Numbers of the nodes that make ``values`` and of all within ``radius`` steps, in graph order."""
        found = {self._makers[name] for name in values if name in self._makers}
        for _ in range(radius):
            before = {self._makers[name] for i in found for name in self._reads[i] if name in self._makers}
            behind = {r for i in found for name in self._nodes[i].output for r in self._readers.get(name, ())}
            found |= before | behind
        return sorted(found)

    def boundary(self, numbers: list[int]) -> tuple[list[str], list[str]]:
        """Values that flow into these nodes (constants are none) and values that leave them."""
        inside = set(numbers)
        made = {name for i in numbers for name in self._nodes[i].output if name}
        stored = {tensor.name for tensor in self.model.graph.initializer}
        leaving = {value.name for value in self.model.graph.output}
        read = dict.fromkeys(name for i in numbers for name in self._reads[i])
        inputs = [name for name in read if name not in made and name not in stored]
        outputs = [
            name
            for i in numbers
            for name in self._nodes[i].output
            if name and (name in leaving or any(reader not in inside for reader in self._readers.get(name, ())))
        ]
        return inputs, outputs

    def extract(
        self, numbers: list[int], inputs: list[str], outputs: list[str], known: Mapping[str, Array]
    ) -> onnx.ModelProto:
        """A model of these nodes; types come from the graph, or from the captured arrays where it does not tell."""
        told = {v.name: v for v in (*self.model.graph.input, *self.model.graph.value_info, *self.model.graph.output)}
        model = onnx.ModelProto(ir_version=self.model.ir_version, producer_name=self.model.producer_name)
        model.opset_import.extend(self.model.opset_import)
        graph = model.graph
        graph.name = "region"
        graph.node.extend(self._nodes[i] for i in numbers)
        read = {name for i in numbers for name in self._reads[i]}
        graph.initializer.extend(tensor for tensor in self.model.graph.initializer if tensor.name in read)
        graph.input.extend(told.get(name) or _described(name, known[name]) for name in inputs)
        graph.output.extend(told.get(name) or _described(name, known[name]) for name in outputs)
        made = {name for i in numbers for name in self._nodes[i].output}
        graph.value_info.extend(v for v in self.model.graph.value_info if v.name in made and v.name not in outputs)
        return model


def with_taps(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """A copy of a graph that also gives these values, of those whose type it tells."""
    told = {value.name: value for value in model.graph.value_info}
    present = {value.name for value in (*model.graph.output, *model.graph.input)}
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(told[name] for name in dict.fromkeys(names) if name in told and name not in present)
    return tapped


def _read_by(node: onnx.NodeProto) -> list[str]:
    """What a node reads, by itself and in the graphs inside it."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
            own |= {name for inner in graph.node for name in inner.output}
            names += [name for inner in graph.node for name in _read_by(inner) if name not in own]
            names += [value.name for value in graph.output if value.name not in own]
    return list(dict.fromkeys(names))


def _described(name: str, array: Array) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, [None] * array.ndim)
