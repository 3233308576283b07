"""A graph between two rules: one onnx_ir model for all of them, and what they ask of it again and again.

Converting a graph, looking for nodes of a kind, collecting the names in use and sampling shapes cost as much as the
graph is long. Each is done once and brought up to date where a rule fired, so that a rule that finds nothing costs
no more than a look at its anchors.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import onnx
import onnx_ir as ir

from edgeattn.rewrite import _sizes
from edgeattn.rewrite._build import Names
from edgeattn.rewrite._rule import View
from edgeattn.standard import all_nodes


class Live:
    """One graph as protobuf and, once a rule has asked, as an onnx_ir model.

    Attributes:
        name: of the graph in its program.
        proto: what the model says; brought up to date by whoever changes the model.
    """

    def __init__(self, name: str, proto: onnx.ModelProto) -> None:
        self.name, self.proto = name, proto
        self._by_op: dict[str, list[tuple[int, ir.Node]]] | None = None
        self._samples: list[_sizes.Sample] | None = None

    @cached_property
    def model(self) -> ir.Model:
        """The graph as onnx_ir; deserialised when first asked for."""
        return ir.serde.deserialize_model(self.proto)

    @cached_property
    def names(self) -> Names:
        """Names in use, and the constants that rules have made."""
        return Names(self.model)

    @cached_property
    def ops(self) -> frozenset[str]:
        """Operators of ``proto``, those in subgraphs too: told without converting it."""
        return frozenset(node.op_type for node in all_nodes(self.proto.graph))

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return next((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), 0)

    @property
    def view(self) -> View:
        """What rules are shown beside a node."""
        return View(self.name, self.opset, self.proto.producer_name, self.samples)

    def anchors(self, ops: tuple[str, ...]) -> list[ir.Node]:
        """The standard nodes of these operators, in graph order, subgraphs too."""
        if not self.ops.intersection(ops):
            return []
        if self._by_op is None:
            self._by_op = {}
            for place, node in enumerate(_nodes(self.model)):
                self._by_op.setdefault(node.op_type, []).append((place, node))
        found = [pair for op in dict.fromkeys(ops) for pair in self._by_op.get(op, ())]
        return [node for _, node in sorted(found, key=lambda pair: pair[0])]

    def samples(self) -> list[_sizes.Sample]:
        """Shapes at concrete input sizes; see :func:`_sizes.sampled`."""
        if self._samples is None:
            self._samples = _sizes.sampled(self.model.graph, self.opset)
        return self._samples

    def changed(self) -> None:
        """Nodes came or went: look for them anew when asked."""
        self._by_op = self._samples = None
        self.__dict__["ops"] = frozenset(node.op_type for node in _nodes(self.model))

    def settle(self, proto: onnx.ModelProto) -> None:
        """``proto`` is the model serialised, with shapes inferred anew: they hold for the model too."""
        self.proto = proto
        told = {v.name: v for v in proto.graph.value_info}
        for node in self.model.graph:
            for value in node.outputs:
                if not _fixed(value) and not value.is_graph_output():
                    _take(value, told.get(value.name or ""))
        self.changed()


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    return (node for graph in model.graphs() for node in graph if node.domain == "")


def _fixed(value: ir.Value) -> bool:
    return value.dtype is not None and value.shape is not None and all(isinstance(d, int) for d in value.shape)


def _take(value: ir.Value, told: onnx.ValueInfoProto | None) -> None:
    """The inferred type and shape. What one inference calls ``unk__3`` is not what another calls so: all are taken."""
    if told is not None:
        ir.serde.deserialize_value_info_proto(told, value)
    elif value.shape is not None:
        value.shape = ir.Shape([d if isinstance(d, int) or _named(d) else None for d in value.shape])


def _named(dim: ir.SymbolicDim) -> bool:
    return dim.value is not None and not dim.value.startswith("unk__")


class Lives:
    """The live graphs of a program, by name; a graph that a rule's result did not keep is made anew."""

    def __init__(self) -> None:
        self._known: dict[str, Live] = {}

    def of(self, name: str, proto: onnx.ModelProto) -> Live:
        """The live graph that says what ``proto`` says."""
        live = self._known.get(name)
        if live is None or live.proto is not proto:
            live = self._known[name] = Live(name, proto)
        return live

    def forget(self) -> None:
        """Whatever a rule did to the models before it failed, nobody sees it."""
        self._known.clear()
