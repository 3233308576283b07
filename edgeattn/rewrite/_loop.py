"""The step graph seen as a loop body: what in it never changes while it runs, and how that moves into the encoder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgeattn.rewrite._apply import finish
from edgeattn.rewrite._build import carried
from edgeattn.rewrite._view import const, dims

if TYPE_CHECKING:
    from edgeattn.program import Program, Wiring

HEAVY = ("MatMul", "Gemm", "Conv", "Einsum")
MOVABLE = frozenset(
    {*HEAVY, "Add", "Sub", "Mul", "Div", "Neg", "Relu", "Tanh", "Sigmoid", "Cast", "Identity"}
    | {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Shape", "Gather", "Slice", "Concat", "Split"}
    | {"LeakyRelu", "Elu", "Gelu", "Softplus", "Clip", "Sqrt", "Pow", "Exp", "LayerNormalization", "BatchNormalization"}
    | {"ReduceMean", "ReduceSum"}
)


@dataclass
class Loop:
    """Which values of a step graph never change while it runs."""

    graph: ir.Graph
    handed: dict[ir.Value, str]  # step input -> "encoder.output"
    origin: dict[ir.Value, frozenset[str]] = field(default_factory=dict)
    movable: frozenset[str] = MOVABLE
    heavy: tuple[str, ...] = HEAVY

    def sources(self, value: ir.Value | None) -> frozenset[str] | None:
        """Graphs that an invariant value comes from, empty for constants; None if it changes from step to step."""
        if value is None or const(value) is not None:
            return frozenset()
        if value in self.handed:
            return frozenset({self.handed[value].split(".", 1)[0]})
        return self.origin.get(value)

    def survey(self) -> None:
        """Walk through the nodes, which are in topological order, and note what is invariant."""
        for node in self.graph:
            found = [self.sources(v) for v in node.inputs]
            if node.domain == "" and node.op_type in self.movable and all(f is not None for f in found):
                together = frozenset().union(*(f for f in found if f is not None))
                self.origin |= dict.fromkeys(node.outputs, together)

    def cone(self, value: ir.Value) -> list[ir.Node]:
        """The nodes that compute an invariant value, producers first."""
        ordered: dict[ir.Node, None] = {}

        def visit(v: ir.Value | None) -> None:
            node = v.producer() if v is not None and const(v) is None else None
            if node is not None and node not in ordered:
                for operand in node.inputs:
                    visit(operand)
                ordered[node] = None

        visit(value)
        return list(ordered)

    def frontier(self) -> list[ir.Value]:
        """Invariant floating-point values with a ``heavy`` node behind them that a changing node reads."""
        return [
            value
            for value, sources in self.origin.items()
            if len(sources) == 1
            and not value.is_graph_output()
            and value.dtype is not None
            and value.dtype.is_floating_point()
            and any(n.op_type in self.heavy for n in self.cone(value))
            and any(all(o not in self.origin for o in reader.outputs) for reader in value.consumers())
        ]


def hoisted(
    program: Program, wiring: Wiring, suffix: str, *, heavy: tuple[str, ...] = HEAVY, shared: bool = False
) -> tuple[Program, int]:
    """The program with what its loop computes from handed-over values alone moved to where they come from.

    Args:
        program: it is not edited. wiring: its own.
        suffix: new edges are named after what they are made of, ``memory_keys``.
        heavy: operators that are worth moving, with what can move around them.
        shared: the caller's inputs that the step and another graph both take count as handed over.

    Returns:
        The changed program, or the same where nothing moves, and how many values moved.
    """
    model = ir.serde.deserialize_model(program.graphs[wiring.loop])
    handed = handed_over(model.graph, wiring) | (given_twice(model.graph, program, wiring) if shared else {})
    loop = Loop(model.graph, handed, movable=MOVABLE.union(heavy), heavy=heavy)
    loop.survey()
    targets = loop.frontier()
    if not targets:
        return program, 0
    graphs, feeds = dict(program.graphs), dict(wiring.feeds)
    for name in sorted({next(iter(loop.origin[t])) for t in targets}):
        encoder = ir.serde.deserialize_model(program.graphs[name])
        mine = [t for t in targets if loop.origin[t] == {name}]
        feeds |= _move(mine, loop, wiring.loop, name, encoder.graph, suffix)
        graphs[name] = finish(encoder)
    for gone in _drop_unread(loop):
        feeds.pop(f"{wiring.loop}.{gone}", None)  # what the caller gives has no edge
    graphs[wiring.loop] = finish(model)
    return replace(program, graphs=graphs, wiring=replace(wiring, feeds=feeds)), len(targets)


def handed_over(step: ir.Graph, wiring: Wiring) -> dict[ir.Value, str]:
    """Step inputs that are set once: fed by another graph's output and not overwritten as state."""
    return {
        value: wiring.feeds[edge]
        for value in step.inputs
        if (edge := f"{wiring.loop}.{value.name}") in wiring.feeds and edge not in wiring.state
    }


def given_twice(step: ir.Graph, program: Program, wiring: Wiring) -> dict[ir.Value, str]:
    """Step inputs that the caller gives, as an input of the same name of another graph; it stands for its output."""
    inner = {*wiring.feeds, *wiring.state, wiring.stop.token}
    takers = {
        spec.name: f"{name}.{spec.name}"
        for name, model in program.graphs.items()
        for spec in model.graph.input
        if name != wiring.loop and f"{name}.{spec.name}" not in inner
    }
    free = [value for value in step.inputs if f"{wiring.loop}.{value.name}" not in inner]
    return {value: takers[value.name] for value in free if value.name in takers}


def _move(targets: list[ir.Value], loop: Loop, step: str, name: str, encoder: ir.Graph, suffix: str) -> dict[str, str]:
    """Copy what computes ``targets`` into the encoder and read it in the step as inputs; the new edges."""
    outputs = {f"{name}.{v.name}": v for v in (*encoder.inputs, *encoder.outputs)}
    moved = {value: outputs[edge] for value, edge in loop.handed.items() if edge in outputs}
    symbols = _symbols(moved)
    taken, in_step = _names(encoder), _names(loop.graph)
    edges = {}
    for target in targets:
        nodes = loop.cone(target)
        for node in nodes:
            if node.outputs[0] not in moved:
                _copy(node, nodes, step, moved, encoder, taken, symbols)
        leaf = next(v.name for n in nodes for v in n.inputs if v in loop.handed)
        new_name = _fresh(f"{leaf}_{suffix}", taken | in_step)
        taken.add(new_name)
        in_step.add(new_name)
        output = moved[target]
        output.name = new_name
        encoder.outputs.append(output)
        handed = ir.Value(name=new_name, type=target.type, shape=target.shape)
        loop.graph.inputs.append(handed)
        target.replace_all_uses_with(handed)
        edges[f"{step}.{new_name}"] = f"{name}.{new_name}"
    return edges


def _copy(
    node: ir.Node,
    group: list[ir.Node],
    step: str,
    moved: dict[ir.Value, ir.Value],
    encoder: ir.Graph,
    taken: set[str],
    symbols: dict[str, str],
) -> None:
    """``node`` again at the end of the encoder, with its constants and its provenance."""
    inputs = [v if v is None else moved.get(v) or _copy_constant(v, moved, encoder, taken) for v in node.inputs]
    outputs = [ir.Value(name=_fresh(f"{o.name}", taken), type=o.type, shape=_renamed(o, symbols)) for o in node.outputs]
    encoder.append(
        ir.node(
            node.op_type,
            inputs,
            {k: a.value for k, a in node.attributes.items()},
            outputs=outputs,
            name=_fresh(f"{node.name or outputs[0].name}", taken),
            metadata_props=carried("hoist_keys", node, group, step),
        )
    )
    moved.update(zip(node.outputs, outputs, strict=True))


def _copy_constant(value: ir.Value, moved: dict[ir.Value, ir.Value], encoder: ir.Graph, taken: set[str]) -> ir.Value:
    """The constant as an initializer of the encoder; a new tensor object, since naming one renames its file's."""
    array = const(value)
    assert array is not None
    name = _fresh(f"{value.name}", taken)
    tensor = ir.tensor(array, name=name)
    copy = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    encoder.register_initializer(copy)
    moved[value] = copy
    return copy


def _symbols(moved: dict[ir.Value, ir.Value]) -> dict[str, str]:
    """What the encoder calls the step's symbolic dimensions."""
    pairs = [pair for ours, theirs in moved.items() for pair in zip(dims(ours) or (), dims(theirs) or (), strict=False)]
    return {a: b for a, b in pairs if isinstance(a, str) and isinstance(b, str)}


def _renamed(value: ir.Value, symbols: dict[str, str]) -> ir.Shape | None:
    shape = dims(value)
    return None if shape is None else ir.Shape([symbols.get(d) if isinstance(d, str) else d for d in shape])


def _names(g: ir.Graph) -> set[str]:
    values = {v.name for v in (*g.inputs, *g.initializers.values())} | {o.name for n in g for o in n.outputs}
    return {name for name in values | {n.name for n in g} if name}


def _fresh(stem: str, taken: set[str]) -> str:
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name


def _drop_unread(loop: Loop) -> list[str]:
    """Remove handed-over inputs that only the moved nodes read; their names."""
    passes.RemoveUnusedNodesPass()(ir.Model(loop.graph, ir_version=10))
    gone = [v for v in loop.handed if not v.uses() and not v.is_graph_output()]
    for value in gone:
        loop.graph.inputs.remove(value)
    return [value.name or "" for value in gone]
