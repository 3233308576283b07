"""A Loop or Scan read as one thing: what goes round, what is stacked, and what only steers it.

Three kinds of values go round a decoder's loop. *Control*: the token, the counter, which rows have ended, tokens
gathered so far; integers and flags that follow from each other, from constants and from what the decoder chose.
*Gathered*: what a step adds to and only the end of the loop reads. *State*: everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgeattn.rewrite import _apply, _proto, _ranges
from edgeattn.rewrite._rule import Miss

HEAVY = frozenset({"MatMul", "Gemm", "Conv", "LSTM", "GRU", "RNN", "Einsum", "Loop", "Scan"})
LIGHT_CONE = 64  # nodes; what steers a loop from outside is shape arithmetic, or it is not understood
_WHOLE = frozenset({2, 3, 4, 5, 6, 7, 9, 12, 13})  # element types: integers and flags


class NoFit(Exception):
    """Why a graph's loop is not a decoder that the rule can split; carries the Miss."""

    def __init__(self, reason: str, culprit: str, near: int = 1) -> None:
        self.miss = Miss(reason, culprit, near)
        super().__init__(reason)


@dataclass(frozen=True)
class Carried:
    """A value that goes round: its first value outside, its name in the body, what follows it, its last outside."""

    first: str
    inside: str
    following: str
    last: str


@dataclass(frozen=True)
class Form:
    """A Loop or Scan node by the roles of its values; an empty name is one that the node does not have.

    Attributes:
        trips, going: outside: how often at most, and whether at all. turn, flag: the same two inside.
        again: inside: whether another turn follows.
        scanned: outside -> inside, a slice of axis 0 a turn. stacked: inside -> outside, stacked on axis 0.
    """

    node: onnx.NodeProto
    body: onnx.GraphProto
    carried: tuple[Carried, ...]
    scanned: Mapping[str, str]
    stacked: tuple[tuple[str, str], ...]
    trips: str = ""
    going: str = ""
    turn: str = ""
    flag: str = ""
    again: str = ""

    @property
    def label(self) -> str:
        """What a Miss calls it."""
        return self.node.name or self.node.output[0]


def read(node: onnx.NodeProto) -> Form:
    """The form of a Loop or Scan node.

    Raises:
        NoFit: a Scan that runs backwards or along another axis.
    """
    body = next(a.g for a in node.attribute if a.name == "body")
    inside, out = [v.name for v in body.input], [v.name for v in body.output]
    outputs = [*node.output, *[""] * (len(out) - len(node.output))]
    if node.op_type == "Loop":
        firsts = node.input[2:]
        count = len(firsts)
        carried = zip(firsts, inside[2:], out[1 : 1 + count], outputs[:count], strict=True)
        stacked = zip(out[1 + count :], outputs[count:], strict=False)
        return Form(
            node,
            body,
            tuple(Carried(*c) for c in carried),
            {},
            tuple(stacked),
            trips=node.input[0],
            going=node.input[1],
            turn=inside[0],
            flag=inside[1],
            again=out[0],
        )
    lists = {a.name: list(a.ints) for a in node.attribute if a.name.startswith("scan_")}
    if any(any(values) for values in lists.values()):
        raise NoFit("it runs backwards or along another axis than 0", node.name or node.output[0])
    scans = next(a.i for a in node.attribute if a.name == "num_scan_inputs")
    count = len(node.input) - scans
    carried = zip(node.input[:count], inside[:count], out[:count], outputs[:count], strict=True)
    scanned = dict(zip(node.input[count:], inside[count:], strict=True))
    return Form(
        node, body, tuple(Carried(*c) for c in carried), scanned, tuple(zip(out[count:], outputs[count:], strict=False))
    )


class Setting:
    """One graph with one loop: types, constants, and which values of the body are control, gathered or state.

    Raises:
        NoFit: no loop, several, or one inside another.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        loops = [n for n in model.graph.node if n.op_type in ("Loop", "Scan") and n.domain in ("", "ai.onnx")]
        if len(loops) != 1:
            raise NoFit(f"the graph has {len(loops) or 'no'} Loop or Scan, expected one", "(program)", len(loops))
        self.model, self.opset = model, _proto.opset_of(model)
        self.form = read(loops[0])
        self.graph, self.body = model.graph, self.form.body
        if any(n.op_type in ("Loop", "Scan") for n in self.body.node):
            raise NoFit("its body holds another loop", self.form.label)
        self.weights = {t.name: t for t in (*self.graph.initializer, *self.body.initializer)}
        for value in self.graph.input:
            self.weights.pop(value.name, None)
        self.maker = {name: node for node in self.body.node for name in node.output if name}
        self.outer_maker = {name: node for node in self.graph.node for name in node.output if name}
        self.inputs = [v.name for v in self.graph.input if v.name not in {t.name for t in self.graph.initializer}]
        bare = _apply.skeleton(model)
        del bare.graph.value_info[:]  # exporters note the sizes they traced with there
        self.types = _types(_ranges.infer(bare, strict=False).graph)
        self.types |= _types(self._body_alone())
        self.choice = self._choice()

    def _body_alone(self) -> onnx.GraphProto:
        """The body as a graph of its own, with inferred types: inside a Loop, inference forgets what goes round."""
        graph, firsts = onnx.GraphProto(name="body"), {c.inside: c.first for c in self.form.carried}
        graph.node.extend(self.body.node)
        for value in self.body.input:
            known = self.types.get(firsts.get(value.name, ""))
            shaped = value.type.tensor_type.HasField("shape") or value.type.HasField("sequence_type")
            graph.input.append(value if shaped or known is None else onnx.helper.make_value_info(value.name, known))
        for name in sorted(_proto.outer_reads(self.body) | {t.name for t in self.body.initializer}):
            array = self.constant(name)
            if array is not None and array.nbytes <= _apply.BIG_BYTES:
                graph.initializer.append(numpy_helper.from_array(array, name))
            elif array is not None:
                graph.input.append(
                    onnx.helper.make_tensor_value_info(
                        name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
                    )
                )
            elif name in self.types:
                graph.input.append(onnx.helper.make_value_info(name, self.types[name]))
        graph.output.extend(onnx.ValueInfoProto(name=v.name) for v in self.body.output)
        model = onnx.helper.make_model(graph, opset_imports=self.model.opset_import)
        return _ranges.infer(model, strict=False).graph

    def is_whole(self, name: str) -> bool:
        """Whether a value holds integers or flags, alone or in a sequence."""
        kind = self.types.get(name)
        if kind is None:
            return False
        tensor = kind.sequence_type.elem_type.tensor_type if kind.HasField("sequence_type") else kind.tensor_type
        return tensor.elem_type in _WHOLE

    def dims(self, name: str) -> list[int | str] | None:
        """The sizes of a tensor, ``?`` where unknown; None where even the rank is."""
        kind = self.types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        return [d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in kind.tensor_type.shape.dim]

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """The array of a weight or a Constant node, inside or outside; None for what is computed."""
        if name in self.weights:
            return numpy_helper.to_array(self.weights[name])
        node = self.maker.get(name) or self.outer_maker.get(name)
        if node is None or node.op_type != "Constant":
            return None
        (attribute,) = node.attribute
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.name == "value":
            return numpy_helper.to_array(value)
        dtype = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
        return np.array(value, dtype[attribute.name]) if attribute.name in dtype else None

    def _choice(self) -> onnx.NodeProto | None:
        """The ArgMax or TopK over the last axis whose index steers the loop; None where nothing is chosen."""
        found = [n for n in self.body.node if n.op_type == "ArgMax" or (n.op_type == "TopK" and self._takes_one(n))]
        if len(found) > 1:
            raise NoFit(f"the body chooses {len(found)} times; expected one ArgMax", found[1].name or "ArgMax", 2)
        return found[0] if found else None

    def _takes_one(self, node: onnx.NodeProto) -> bool:
        k = self.constant(node.input[1])
        return k is not None and k.size == 1 and int(k.reshape(-1)[0]) == 1

    @property
    def chosen(self) -> str:
        """The index that was chosen; empty where nothing is."""
        if self.choice is None:
            return ""
        return str(self.choice.output[1 if self.choice.op_type == "TopK" else 0])

    @cached_property
    def control(self) -> frozenset[str]:
        """Values of the body that steer it; the choice is one of them, what it is made from is not."""
        going = {c.inside for c in self.form.carried if self.is_whole(c.inside)}
        while True:
            known = self._follow(going)
            gone = {c.inside for c in self.form.carried if c.inside in going and c.following not in known}
            if not gone:
                return frozenset(known)
            going -= gone

    def _follow(self, carried: set[str]) -> set[str]:
        known = {*carried, self.form.turn, self.form.flag, *self.steering} - {""}
        for outside, inside in self.form.scanned.items():
            if outside in self.steering:
                known.add(inside)
        for node in self.body.node:
            if node is self.choice:
                known.add(self.chosen)
            elif all(n in known or self.constant(n) is not None for n in _proto.reads(node)):
                known |= {o for o in node.output if self.is_whole(o)}
        return known

    @cached_property
    def steering(self) -> frozenset[str]:
        """Values from outside that are integers or flags and cheap to compute: lengths, forced tokens, first values."""
        wanted = {*_proto.outer_reads(self.body), *self.form.scanned, self.form.trips, self.form.going}
        wanted |= {c.first for c in self.form.carried}
        return frozenset(n for n in wanted - {""} if self.constant(n) is None and self._cheap(n))

    def _cheap(self, name: str) -> bool:
        node = self.outer_maker.get(name)
        if not (self.is_whole(name) or (node is not None and node.op_type == "SequenceEmpty")):
            return False
        behind = _proto.cone(self.graph.node, [name])
        return len(behind) <= LIGHT_CONE and not any(n.op_type in HEAVY for n in behind)

    def gathered(self, value: Carried) -> list[onnx.NodeProto] | None:
        """The nodes that add to a value which nothing else reads; None for control and state."""
        touched, nodes = {value.inside}, []
        for node in self.body.node:
            if _proto.reads(node) & touched:
                nodes.append(node)
                touched |= set(node.output)
        others = {c.following for c in self.form.carried if c is not value} | {s for s, _ in self.form.stacked}
        alone = not touched & (others | {self.form.again})
        return nodes if nodes and alone and value.following in touched and not touched & self.control else None


def _types(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto]:
    """The type of every value that a graph and the graphs inside it declare."""
    found: dict[str, onnx.TypeProto] = {}
    for part in _all_graphs(graph):
        for tensor in part.initializer:
            found[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        for value in (*part.value_info, *part.output, *part.input):
            found[value.name] = value.type
    return found


def _all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in _proto.subgraphs(node):
            yield from _all_graphs(inner)
