"""What a rewrite did, as a person asks it: which attention was there, where each rule fired, what it saves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from edgeattn import graphs
from edgeattn.origin import module_of
from edgeattn.recognise import recognise

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Program

Changed: TypeAlias = "Mapping[str, Sequence[onnx.NodeProto]]"


def changed(before: Program, after: Program) -> Changed:
    """Nodes of ``before``, by graph, that are gone from ``after`` or read or compute something else there."""
    found = {}
    for name, model in before.graphs.items():
        if model is not after.graphs.get(name):
            kept = {_key(node) for node in after.graphs[name].graph.node} if name in after.graphs else set()
            found[name] = [node for node in model.graph.node if _key(node) not in kept]
    return found


def _key(node: onnx.NodeProto) -> tuple[str, ...]:
    plain = sorted(f"{a.name}={a.i}{a.f}{a.s!r}{list(a.ints)}{list(a.floats)}" for a in node.attribute)
    return (node.op_type, *node.input, "->", *node.output, *plain)


def places(found: Changed) -> list[str]:
    """Where a change happened: for each connected group of nodes the innermost module around it, each once.

    A group that no one module holds is told by all of its modules, one without any by its last node.
    """
    return list(
        dict.fromkeys(place for nodes in found.values() for group in _groups(nodes) for place in _places(group))
    )


def _groups(nodes: Sequence[onnx.NodeProto]) -> list[list[onnx.NodeProto]]:
    """Nodes that feed each other, together."""
    leader = list(range(len(nodes)))

    def lead(i: int) -> int:
        while leader[i] != i:
            i = leader[i]
        return i

    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    for i, node in enumerate(nodes):
        for name in node.input:
            if name in maker:
                leader[lead(i)] = lead(maker[name])
    groups: dict[int, list[onnx.NodeProto]] = {}
    for i, node in enumerate(nodes):
        groups.setdefault(lead(i), []).append(node)
    return list(groups.values())


def _places(group: Sequence[onnx.NodeProto]) -> list[str]:
    if module := around(group):
        return [module]
    modules = dict.fromkeys(module for node in group if (module := module_of(node)))
    outermost = [m for m in modules if not any(m.startswith(f"{other}.") for other in modules)]
    return outermost or [group[-1].name or group[-1].output[0]]


def around(nodes: Iterable[onnx.NodeProto]) -> str:
    """The innermost module that holds all of some nodes; those that tell none do not count."""
    paths = [module.split(".") for node in nodes if (module := module_of(node))]
    common: list[str] = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def attention(source: Program, changes: Sequence[tuple[str, Changed]]) -> list[dict[str, Any]]:
    """Every attention structure of the source: what it is, where, and which rules changed it."""
    found = []
    for name, model in source.graphs.items():
        by_output = {output: node for node in model.graph.node for output in node.output}
        touched = [(rule, {o for n in nodes.get(name, ()) for o in n.output}) for rule, nodes in changes]
        for a in recognise(model):
            found.append(
                {
                    "graph": name,
                    "kind": a.kind,
                    "what": a.describe(),
                    "module": around(by_output[o] for o in a.nodes if o in by_output),
                    "gate": a.gate,
                    "rules": [rule for rule, outputs in touched if outputs & a.nodes],
                }
            )
    return found


def costs(before: Program, after: Program) -> dict[str, Any]:
    """Parameters and multiply-accumulates of one run (batch 1) of every graph, as ``[before, after]``."""
    counted = {"parameters": graphs.parameters, "macs": graphs.multiply_accumulates}
    names = dict.fromkeys([*before.graphs, *after.graphs])
    return {
        what: {name: [count(p.graphs[name]) if name in p.graphs else 0 for p in (before, after)] for name in names}
        for what, count in counted.items()
    }


def interface(program: Program) -> dict[str, list[str]]:
    """What a user of the program gives and gets, as text."""
    last = program.wiring.loop if program.wiring else next(iter(program.graphs))
    return {
        "inputs": [str(spec) for spec in graphs.program_inputs(program)],
        "outputs": [str(spec) for spec in graphs.output_specs(program.graphs[last])],
    }
