"""Strongly typed graphs: weights stored as FP16 or BF16, a Cast wherever the type changes. The frame of both schemes.

Graph inputs and outputs stay float32, so callers, wiring and states see the same program; a Cast stands at the border.
A value ``v`` keeps its name in FP32 and is called ``v_fp16`` (``v_bf16``) in the low type; where both are read, one
Cast serves every reader. Nothing is left to an engine's discretion: this is the form TensorRT 10 and later ask for
(STRONGLY_TYPED), and any engine reads off it what is computed in what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeattn import graphs, outside
from edgeattn.errors import Unsupported, UsageError
from edgeattn.quantize import Quantized, Scheme, Settings
from edgeattn.quantize._measure import Seen, measure
from edgeattn.quantize._typing import Kind, Typing, decide, reads
from edgeattn.rounding import FLOAT
from edgeattn.standard import all_nodes

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Case, Opener, Program

_MEANT_OTHERWISE = {"DFT", "GridSample", "GroupNormalization"}
"""Operators whose definition changed between opset 18 and 22; every other change there added types and options."""


class Typed(Scheme):
    """A scheme that says in the graph what is computed in a float type of 16 bits; which one is its ``kind``."""

    calibrated = False

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.name = self.precision = self.limits = kind.name

    def quantize(self, program: Program, opener: Opener, data: Iterable[Case], settings: Settings) -> Quantized:
        """Measure where the type's range is narrow, decide, write; see :func:`edgeattn.quantize.quantize`."""
        return _typed(self.kind, program, opener, data, settings)


def _typed(kind: Kind, program: Program, opener: Opener, data: Iterable[Case], settings: Settings) -> Quantized:
    """Type every graph of a program.

    Raises:
        UsageError: a keep pattern that matches nothing, or a ranged type and no case to measure on.
        Unsupported: no layer with weights could take the type.
    """
    plain = replace(program, graphs={graph: _with_initializers(m) for graph, m in program.graphs.items()})
    opsets = {graph: _opset(model, kind) for graph, model in plain.graphs.items()}

    def decided(seen: Mapping[str, Mapping[str, Seen]]) -> dict[str, Typing]:
        return {g: decide(m, kind, opsets[g], settings.keep, seen.get(g)) for g, m in plain.graphs.items()}

    typings, cases = decided({}), _cases(program, data) if kind.ranged else ()
    if kind.ranged:
        values = {g: _touched(m, typings[g]) for g, m in plain.graphs.items()}
        typings = decided(measure(plain, values, kind.element, opener, cases))
    written = {g: _Writer(m, kind, typings[g]).write(opsets[g]) for g, m in plain.graphs.items()}
    notes = _notes(kind, plain, typings, written, len(cases))
    if not notes["layers"]:
        raise _nothing(kind, program, typings)
    return replace(program, graphs=written), notes


def _cases(program: Program, data: Iterable[Case]) -> tuple[Case, ...]:
    cases = (*(program.reference.cases if program.reference else ()), *data)
    if not cases:
        raise UsageError("no inputs to measure ranges on", hint="export the model, or give the program a reference")
    return cases


def _touched(model: onnx.ModelProto, typing: Typing) -> list[str]:
    """Float32 values that a node of the low type would read or write."""
    index = graphs.GraphIndex(model)
    names = [
        name
        for i in sorted(typing.low)
        for name in (
            *(index.nodes[i].input[p] for p in typing.inputs[i]),
            *(index.nodes[i].output[p] for p in typing.outputs[i]),
        )
    ]
    return [name for name in dict.fromkeys(names) if not index.is_constant(name)]


def _nothing(kind: Kind, program: Program, typings: Mapping[str, Typing]) -> Unsupported:
    nodes = [(n, typings[g]) for g, m in program.graphs.items() for n in m.graph.node if n.op_type in graphs.MAC_OPS]
    if not nodes:
        return Unsupported("no layer with weights to compute in " + kind.label, hint="only such layers gain from it")
    node, typing = nodes[0]
    name = node.name or node.output[0]
    why = typing.why.get(name, "its weights are not float32")
    return Unsupported(
        f"nothing can compute in {kind.label}: {why}", where=f"node '{name}'", hint="export with --opset 18 or newer"
    )


def _notes(
    kind: Kind,
    program: Program,
    typings: Mapping[str, Typing],
    written: Mapping[str, onnx.ModelProto],
    cases: int,
) -> dict[str, Any]:
    low = [m.graph.node[i] for g, m in program.graphs.items() for i in sorted(typings[g].low)]
    casts = [_count(m, "Cast") - _count(program.graphs[g], "Cast") for g, m in written.items()]
    notes = {
        "layers": sum(node.op_type in graphs.MAC_OPS for node in low),
        "nodes": len(low),
        "casts": sum(casts),
        "border": "graph inputs and outputs stay float32",
        "opset": {graph: graphs.opset_of(model) for graph, model in written.items()},
        "kept_float": {name: why for typing in typings.values() for name, why in typing.why.items()},
    }
    return {**notes, "cases": cases} if kind.ranged else notes


def _count(model: onnx.ModelProto, operator: str) -> int:
    return sum(node.op_type == operator for node in model.graph.node)


def _opset(model: onnx.ModelProto, kind: Kind) -> int:
    """The opset to write: the type's own where nothing in the graph means something else there."""
    own = graphs.opset_of(model)
    meant = any(n.op_type in _MEANT_OTHERWISE for n in all_nodes(model.graph))
    return kind.opset if 18 <= own < kind.opset and not meant else own


def _with_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose float32 Constant nodes are initializers, so that a constant is one thing."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    kept = []
    for node in result.graph.node:
        tensor = graphs.attributes(node).get("value") if node.op_type == "Constant" else None
        if tensor is None or tensor.data_type != FLOAT:
            kept.append(node)
            continue
        stored = result.graph.initializer.add()
        stored.CopyFrom(tensor)
        stored.name = node.output[0]
    del result.graph.node[:]
    result.graph.node.extend(kept)
    return result


class _Writer:
    """Writes one graph by its typing: a value is cast where it is first read in the other type, for all readers."""

    def __init__(self, model: onnx.ModelProto, kind: Kind, typing: Typing) -> None:
        self._model, self._kind, self._typing = model, kind, typing
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._taken = {name for node in all_nodes(model.graph) for name in (*node.input, *node.output)}
        self._narrow: dict[str, str] = {}  # value -> its name in the low type
        self._only_narrow: set[str] = set()  # written in the low type and not cast back yet
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def write(self, opset: int) -> onnx.ModelProto:
        """The typed graph, in ``opset``."""
        import onnx

        for i, node in enumerate(self._model.graph.node):
            self._add(i, node)
        for value in self._model.graph.output:
            self._widen(value.name)
        read = {name for node in self._nodes for name in reads(node)} | {v.name for v in self._model.graph.output}
        result = onnx.ModelProto()
        result.CopyFrom(self._model)
        graph = result.graph
        del graph.node[:], graph.value_info[:], graph.initializer[:]
        graph.node.extend(self._nodes)
        kept = [t for name, t in self._stored.items() if name in read or name not in self._narrow]
        graph.initializer.extend([*kept, *self._constants])
        _raise_to(result, opset)
        return result

    def _add(self, i: int, node: onnx.NodeProto) -> None:
        import onnx

        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        low = i in self._typing.low
        narrow = self._typing.inputs[i] if low else []
        for name in reads(node) - {node.input[p] for p in narrow}:
            self._widen(name)
        for p in narrow:
            copy.input[p] = self._narrowed(node.input[p])
        for p in self._typing.outputs[i] if low else ():
            name = node.output[p]
            copy.output[p] = self._narrow[name] = self._fresh(name)
            self._only_narrow.add(name)
        self._nodes.append(copy)

    def _narrowed(self, name: str) -> str:
        """A value in the low type: as it was written, or cast here, once; a constant is stored so."""
        if name not in self._narrow:
            self._narrow[name] = self._fresh(name)
            if name in self._stored:
                self._constants.append(self._constant(self._stored[name], self._narrow[name]))
            else:
                self._nodes.append(_cast(name, self._narrow[name], self._kind.element))
        return self._narrow[name]

    def _widen(self, name: str) -> None:
        """Cast a value that only exists in the low type back to float32, under its own name."""
        if name in self._only_narrow:
            self._only_narrow.discard(name)
            self._nodes.append(_cast(self._narrow[name], name, FLOAT))

    def _fresh(self, name: str) -> str:
        called = f"{name}_{self._kind.name}"
        while called in self._taken:
            called += "_"
        self._taken.add(called)
        return called

    def _constant(self, tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
        from onnx import numpy_helper

        array = self._kind.rounded(outside.array(tensor))
        stored = numpy_helper.from_array(array, name)
        if outside.is_outside(tensor):
            path, length, stamp = outside.place_of(array)
            outside.put(stored, path, 0, length, stamp)
        return stored


def _cast(source: str, target: str, element: int) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=element)


def _raise_to(model: onnx.ModelProto, opset: int) -> None:
    from onnx import helper

    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version != opset:
            entry.version = opset
            model.ir_version = max(model.ir_version, helper.find_min_ir_version_for([entry]))
