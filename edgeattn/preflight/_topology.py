"""Whether every value has one producer, and every node finds its inputs made before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from edgeattn.errors import BadInput, printable
from edgeattn.preflight._tensors import label

if TYPE_CHECKING:
    import onnx

_HINT = "export the model again"


def check_topology(model: onnx.ModelProto, where: str) -> None:
    """Check the graph, its subgraphs and its functions.

    Raises:
        BadInput: a value made twice, an input nobody makes, a cycle, or nodes out of order.
    """
    _graph(model.graph, (), where)
    for function in model.functions:
        scopes = (_starting(list(function.input), where),)
        _nodes(function.node, scopes, where)
        _outputs(list(function.output), scopes, where)


# The names made so far, outermost graph first: a subgraph sees what its outer graphs made before it.
Scopes: TypeAlias = tuple[set[str], ...]


def _graph(graph: onnx.GraphProto, outer: Scopes, where: str) -> None:
    inputs = [value.name for value in graph.input]
    constants = [tensor.name for tensor in graph.initializer] + [s.values.name for s in graph.sparse_initializer]
    scopes = (*outer, _starting(inputs, where) | _starting(constants, where))
    _nodes(graph.node, scopes, where)
    _outputs([value.name for value in graph.output], scopes, where)


def _starting(names: list[str], where: str) -> set[str]:
    made = set(names)
    if len(made) != len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise BadInput(f"defines the value '{printable(twice, 80)}' twice", where=where, hint=_HINT)
    return made


def _nodes(nodes: Iterable[onnx.NodeProto], scopes: Scopes, where: str) -> None:
    made = scopes[-1]
    for node in nodes:
        for name in node.input:
            if name and not any(name in scope for scope in scopes):
                raise _unmade(name, node, list(nodes), where)
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _graph(graph, scopes, where)
        for name in node.output:
            if name in made:
                what = f"{label(node)} makes the value '{printable(name, 80)}' a second time"
                raise BadInput(what, where=where, hint=_HINT)
            if name:
                made.add(name)


def _outputs(names: list[str], scopes: Scopes, where: str) -> None:
    for name in names:
        if not any(name in scope for scope in scopes):
            raise BadInput(f"nothing makes the output '{printable(name, 80)}'", where=where, hint=_HINT)


def _unmade(name: str, node: onnx.NodeProto, nodes: list[onnx.NodeProto], where: str) -> BadInput:
    """Why an input is not there yet: made by nobody, made later, or made from this very node's output."""
    producer = {output: i for i, n in enumerate(nodes) for output in n.output}
    said = f"{label(node)} reads '{printable(name, 80)}'"
    if name not in producer:
        return BadInput(f"{said}, which nothing makes", where=where, hint=_HINT)
    target, todo, seen = set(node.output), [producer[name]], set[int]()
    while todo:
        i = todo.pop()
        if i not in seen:
            seen.add(i)
            if target & set(nodes[i].output):
                return BadInput(f"{said}, which is made from its own output: a cycle", where=where, hint=_HINT)
            todo += [producer[value] for value in nodes[i].input if value in producer]
    return BadInput(f"{said}, which is made only after it", where=where, hint="sort the nodes, or export again")
