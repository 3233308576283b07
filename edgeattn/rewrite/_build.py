"""Building new nodes that remember where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from edgeattn.origin import FROM_KEY, RULE_KEY
from edgeattn.rewrite import _view

if TYPE_CHECKING:
    from edgeattn.rewrite._rule import Match

# What the PyTorch exporter wrote about the module a node came from; reports speak in these names.
SCOPE_KEYS = ("namespace", "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy", "pkg.torch.onnx.fx_node")


class Names:
    """The names a model uses, subgraphs included, and the constants that rules have put into it.

    Made once a model; a name costs the same however many there are.
    """

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set()
        self._last: dict[str, int] = {}
        self._constants: dict[tuple[int, str], dict[object, ir.Value]] = {}
        for graph in model.graphs():
            values = [*graph.inputs, *graph.initializers.values(), *(o for n in graph for o in n.outputs)]
            self._taken |= {v.name or "" for v in values} | {n.name or "" for n in graph}

    def fresh(self, stem: str) -> str:
        """``stem``, or with a number behind it; taken from now on."""
        name = stem
        while name in self._taken:
            self._last[stem] = self._last.get(stem, 1) + 1
            name = f"{stem}_{self._last[stem]}"
        self._taken.add(name)
        return name

    def constant(self, graph: ir.Graph, stem: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """The initializer of ``graph`` called after ``stem`` that holds ``array``; made where there is none."""
        known = self._constants.get((id(graph), stem))
        if known is None:
            known = self._constants[id(graph), stem] = _alike(graph, stem)
        key = _content(array)
        held = known.get(key)
        if held is None or held.name not in graph.initializers:
            held = known[key] = _initializer(graph, self.fresh(stem), array)
        return held


def _alike(graph: ir.Graph, stem: str) -> dict[object, ir.Value]:
    """Constants that were made under this stem before, when this was another model."""
    found: dict[object, ir.Value] = {}
    name, number = stem, 1
    while name in graph.initializers:
        array = _view.const(graph.initializers[name])
        if array is not None:
            found.setdefault(_content(array), graph.initializers[name])
        number += 1
        name = f"{stem}_{number}"
    return found


def _content(array: np.ndarray[Any, Any]) -> object:
    return array.dtype.str, array.shape, hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).digest()


def _initializer(graph: ir.Graph, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


class Build:
    """Builds the replacement of one match, in front of its anchor.

    Attributes:
        made: outputs of the nodes built so far.
    """

    def __init__(self, rule: str, match: Match, names: Names) -> None:
        graph = match.anchor.graph
        assert isinstance(graph, ir.Graph)
        self._graph, self._rule, self._match, self._names = graph, rule, match, names
        self.made: list[ir.Value] = []
        self._stem = match.anchor.outputs[0].name or rule

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        shape: Sequence[int | str | None] | None = None,
        dtype: ir.DataType | None = None,
        source: ir.Node | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """One standard node and its output.

        Args:
            op_type: operator. inputs: its inputs; None leaves an optional one out.
            shape: the output's shape, where known.
            dtype: the output's type; by default that of the first input.
            source: the node whose module name and scope it inherits; by default the anchor.
            attributes: operator attributes as plain values.
        """
        return self.ops(op_type, *inputs, shapes=[shape], dtype=dtype, source=source, **attributes)[0]

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        shapes: Sequence[Sequence[int | str | None] | None],
        dtype: ir.DataType | None = None,
        source: ir.Node | None = None,
        **attributes: Any,
    ) -> list[ir.Value]:
        """As ``op``, for a node with several outputs: one for each of ``shapes``."""
        name = self._names.fresh(f"{self._stem}/{self._rule}/{op_type}")
        known = dtype or next(v for v in inputs if v is not None).dtype
        outputs = [
            ir.Value(
                name=f"{name}:{number}",
                type=ir.TensorType(known) if known is not None else None,
                shape=ir.Shape(shape) if shape is not None else None,
            )
            for number, shape in enumerate(shapes)
        ]
        node = ir.node(op_type, inputs, attributes, outputs=outputs, name=name, metadata_props=self._provenance(source))
        self._graph.insert_before(self._match.anchor, node)
        self.made += outputs
        return outputs

    def like(self, node: ir.Node, *inputs: ir.Value | None, shape: Sequence[int | str | None] | None) -> ir.Value:
        """``node`` again, with its attributes, on other inputs."""
        attributes = {name: a.value for name, a in node.attributes.items()}
        return self.op(node.op_type, *inputs, shape=shape, dtype=node.outputs[0].dtype, source=node, **attributes)

    def const(self, stem: str, array: np.ndarray[Any, Any]) -> ir.Value:
        """An initializer that holds ``array``; an equal one made before under the same stem is shared."""
        return self._names.constant(self._graph, stem, np.asarray(array, order="C"))

    def scalar(self, stem: str, number: float, like: ir.Value) -> ir.Value:
        """A scalar initializer of the type of ``like``."""
        assert like.dtype is not None
        return self.const(stem, np.array(number, like.dtype.numpy()))

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let ``new`` take the place, and where it was built here the name, of ``old``."""
        if old.is_graph_output() and not any(new is made for made in self.made):
            new = self.op("Identity", new, shape=_view.dims(new))
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        if any(new is made for made in self.made):
            name = old.name
            old.name = self._names.fresh(f"{name}/replaced")
            new.name = name
            new.type = old.type or new.type
            new.shape = old.shape or new.shape

    def replace_node(self, old: ir.Node, **attributes: Any) -> None:
        """The same operator on the same inputs with other attributes, all outputs kept by name."""
        outputs = [ir.Value(name=self._names.fresh(f"{o.name}/new"), type=o.type, shape=o.shape) for o in old.outputs]
        node = ir.node(
            old.op_type,
            old.inputs,
            attributes,
            outputs=outputs,
            name=self._names.fresh(f"{self._stem}/{self._rule}/{old.op_type}"),
            metadata_props=self._provenance(old),
        )
        self._graph.insert_before(self._match.anchor, node)
        self.made += outputs
        for was, now in zip(old.outputs, outputs, strict=True):
            self.replace(was, now)

    def _provenance(self, source: ir.Node | None) -> dict[str, str]:
        return carried(self._rule, source or self._match.anchor, self._match.nodes)


def label(node: ir.Node) -> str:
    """What a node is called: its name, or what its first output is called."""
    return node.name or next((o.name for o in node.outputs if o.name), "") or node.op_type


def carried(rule: str, source: ir.Node, nodes: Sequence[ir.Node], graph: str = "") -> dict[str, str]:
    """Metadata of a new node: the scope of ``source``, the rules it went through, and the original nodes' names.

    Args:
        rule: what made it. source: whose scope it has. nodes: what it stands for.
        graph: the graph those were in, where the new node goes to another; it stands before their names then.
    """
    there = f"{graph}:" if graph else ""
    origins: dict[str, None] = {}
    rules: dict[str, None] = {}
    for node in nodes:
        old = node.metadata_props
        origins |= dict.fromkeys(old[FROM_KEY].split(", ") if FROM_KEY in old else [there + label(node)])
        rules |= dict.fromkeys(old[RULE_KEY].split(", ") if RULE_KEY in old else [])
    scope = {k: v for k, v in source.metadata_props.items() if k in SCOPE_KEYS}
    return {**scope, RULE_KEY: ", ".join([*rules, rule]), FROM_KEY: ", ".join(origins)}
