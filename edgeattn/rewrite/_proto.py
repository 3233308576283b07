"""Graphs as protobuf messages, moved from one model into another: names, outer values, new nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeattn.origin import FROM_KEY, RULE_KEY


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard domain, 0 if it is not imported."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def reads(node: onnx.NodeProto) -> set[str]:
    """Values of the surrounding graph that a node reads, those read inside its own graphs among them."""
    found = {name for name in node.input if name}
    for graph in subgraphs(node):
        found |= outer_reads(graph)
    return found


def outer_reads(graph: onnx.GraphProto) -> set[str]:
    """Values that a graph takes from outside without declaring them."""
    inside = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    inside |= {t.values.name for t in graph.sparse_initializer}
    wanted = {v.name for v in graph.output}
    for node in graph.node:
        wanted |= reads(node)
        inside |= set(node.output)
    return wanted - inside - {""}


def value_names(graph: onnx.GraphProto) -> set[str]:
    """Every value and node name in a graph and the graphs inside it."""
    names = {v.name for v in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names |= {*node.input, *node.output, node.name}
        for inner in subgraphs(node):
            names |= value_names(inner)
    return names - {""}


def renamed(graph: onnx.GraphProto, names: Mapping[str, str]) -> onnx.GraphProto:
    """A copy of a graph with its values called otherwise, inside its nodes' graphs too."""
    copy = onnx.GraphProto()
    copy.CopyFrom(graph)
    _rename(copy, names)
    return copy


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        node.name = names.get(node.name, node.name)
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
        for inner in subgraphs(node):
            _rename(inner, names)


def cone(nodes: Iterable[onnx.NodeProto], wanted: Iterable[str], stop: Iterable[str] = ()) -> list[onnx.NodeProto]:
    """The nodes behind some values, in order; nothing behind ``stop`` is looked at."""
    need, barred, kept = set(wanted), set(stop), []
    for node in reversed(list(nodes)):
        if (need & set(node.output)) - barred:
            kept.append(node)
            need |= reads(node)
    return kept[::-1]


class Writer:
    """New nodes at the end of a list, with fresh names and where they came from."""

    def __init__(self, rule: str, origin: str, taken: set[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._rule, self._origin, self.taken = rule, origin, taken  # several writers may share their names

    def fresh(self, stem: str) -> str:
        """A name that nothing has yet."""
        name, number = stem, 1
        while name in self.taken:
            number += 1
            name = f"{stem}_{number}"
        self.taken.add(name)
        return name

    def op(self, op_type: str, *inputs: str, outputs: Sequence[str] = (), stem: str = "", **attributes: Any) -> str:
        """One standard node; its first output."""
        names = list(outputs) or [self.fresh(stem or op_type.lower())]
        node = helper.make_node(op_type, inputs, names, name=self.fresh(f"{self._rule}/{names[0]}"), **attributes)
        for key, text in ((RULE_KEY, self._rule), (FROM_KEY, self._origin)):
            node.metadata_props.add(key=key, value=text)
        self.nodes.append(node)
        return names[0]

    def const(self, stem: str, array: Any) -> str:
        """An initializer."""
        name = self.fresh(stem)
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name
