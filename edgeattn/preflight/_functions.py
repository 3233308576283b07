"""Model-local functions: no recursion, and no tower of calls that would unfold to more nodes than fit anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from edgeattn.errors import BadInput, OutOfResources, printable
from edgeattn.preflight._nodes import with_subgraphs

if TYPE_CHECKING:
    import onnx

    Key: TypeAlias = tuple[str, str, str]

MAX_NODES = 1_000_000


def check_functions(model: onnx.ModelProto, where: str) -> None:
    """Check what the calls of a model unfold to, without unfolding them.

    Raises:
        BadInput: a function that calls itself, or two of the same name.
        OutOfResources: more than ``MAX_NODES`` nodes.
    """
    if not model.functions:
        return
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    if len(functions) != len(model.functions):
        raise BadInput("defines a function twice", where=where, hint="export the model again")
    calls = {
        key: _calls([n for node in f.node for n in with_subgraphs(node)], functions) for key, f in functions.items()
    }
    sizes = {key: sum(1 for node in f.node for _ in with_subgraphs(node)) for key, f in functions.items()}
    for key in _callees_first(calls, where):
        sizes[key] += sum(sizes[callee] for callee in calls[key])
    nodes = [n for node in model.graph.node for n in with_subgraphs(node)]
    total = len(nodes) + sum(sizes[callee] for callee in _calls(nodes, functions))
    if total > MAX_NODES:
        what = f"its functions unfold to {total if total < 10**12 else 'over 10^12'} nodes, more than {MAX_NODES}"
        raise OutOfResources(what, where=where, hint="export the model without nested functions")


def _calls(nodes: list[onnx.NodeProto], functions: dict[Key, onnx.FunctionProto]) -> list[Key]:
    keys = ((node.domain, node.op_type, node.overload) for node in nodes)
    return [key for key in keys if key in functions]


def _callees_first(calls: dict[Key, list[Key]], where: str) -> list[Key]:
    """Depth first, without recursion of our own."""
    done: dict[Key, None] = {}
    for root in calls:
        path: dict[Key, list[Key]] = {root: list(calls[root])} if root not in done else {}
        while path:
            key = next(reversed(path))
            if not path[key]:
                done[key] = None
                del path[key]
                continue
            callee = path[key].pop()
            if callee in path:
                what = f"its function '{printable(callee[1], 80)}' calls itself"
                raise BadInput(what, where=where, hint="export the model again")
            if callee not in done:
                path[callee] = list(calls[callee])
    return list(done)
