"""Does a Source hold together? Asked once, when it is built, so that its author's slip is told in its own words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from edgeattn.errors import BadInput, did_you_mean, printable
from edgeattn.program import TensorSpec, Wiring

if TYPE_CHECKING:
    from edgeattn.models import GraphSource, Source

_DTYPES = ("float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")


def check(source: Source, where: str) -> None:
    """Hold a Source's graphs and wiring against one another.

    Args:
        source: what a factory returned.
        where: what the user calls it.

    Raises:
        BadInput: a graph that is none, a module whose forward() cannot take its inputs, an edge to nowhere, with
            the nearest name.
    """
    if not source.graphs:
        raise BadInput("the Source has no graph", where=where, hint="graphs={'main': GraphSource(…)}")
    for name, graph in source.graphs.items():
        _check_graph(name, graph, where)
    if source.wiring is not None:
        _check_wiring(source.graphs, source.wiring, where)
    elif len(source.graphs) > 1:
        names = ", ".join(source.graphs)
        raise BadInput(
            f"graphs {names} have no wiring", where=where, hint="say how they feed each other: wiring=Wiring(…)"
        )
    _check_shared(source, where)


def _check_graph(name: str, graph: GraphSource, where: str) -> None:
    from torch import nn

    at = f"{where}: graph '{printable(name, 80)}'"
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", name):
        raise BadInput("its name cannot be a file name", where=at, hint="letters, digits and _")
    if not isinstance(graph.module, nn.Module):
        raise BadInput(f"its module is {type(graph.module).__name__}", where=at, hint="give an nn.Module")
    for spec in graph.inputs:
        if not isinstance(spec, TensorSpec):
            raise BadInput(f"an input is {type(spec).__name__}", where=at, hint="TensorSpec(name, dtype, shape)")
        if spec.dtype not in _DTYPES:
            hint = did_you_mean(str(spec.dtype), _DTYPES)
            raise BadInput(f"input '{spec.name}' has the unknown type '{spec.dtype}'", where=at, hint=hint)
    if not isinstance(graph.outputs, tuple | list) or not graph.outputs:
        raise BadInput("its outputs are not a tuple of names", where=at, hint="outputs=('logits',)")
    names = [spec.name for spec in graph.inputs] + list(graph.outputs)
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise BadInput(
            f"'{twice}' names two of its tensors", where=at, hint="a state that returns is h_out where h went in"
        )
    _check_signature(at, graph)


def _check_signature(at: str, graph: GraphSource) -> None:
    signature = inspect.signature(graph.module.forward)
    given = [spec.name for spec in graph.inputs]
    takes = f"forward({', '.join(signature.parameters)})"
    hint = "inputs are passed by position, in the order they are declared"
    try:
        signature.bind(*given)
    except TypeError as error:
        raise BadInput(
            f"{takes} does not take {', '.join(given) or 'no input'}: {error}", where=at, hint=hint
        ) from error
    placed = list(signature.parameters)[: len(given)]
    if placed != given and sorted(placed) == sorted(given):
        raise BadInput(f"inputs are declared as {', '.join(given)}, but it is {takes}", where=at, hint=hint)


def _check_wiring(graphs: Mapping[str, GraphSource], wiring: Wiring, where: str) -> None:
    inputs = {f"{name}.{spec.name}" for name, graph in graphs.items() for spec in graph.inputs}
    outputs = {f"{name}.{output}" for name, graph in graphs.items() for output in graph.outputs}
    inside = f"{where}: wiring"
    _known("stop.token", wiring.stop.token, inputs, "input", inside)
    loop = f"{wiring.loop}."
    once, again = ({o for o in outputs if o.startswith(loop) is looped} for looped in (False, True))
    _known("stop.emits", wiring.stop.emits, again, f"output of '{wiring.loop}'", inside)
    if wiring.stop.first:
        _known("stop.first", wiring.stop.first, once, "output of a graph that runs once", inside)
    for target, source in wiring.feeds.items():
        _known("feeds", target, inputs, "input", inside)
        _known(f"feeds['{target}']", source, once, "output of a graph that runs once", inside)
    for target, source in wiring.state.items():
        _known("state", target, {i for i in inputs if i.startswith(loop)}, f"input of '{wiring.loop}'", inside)
        _known(f"state['{target}']", source, again, f"output of '{wiring.loop}'", inside)
    _check_order(graphs, wiring, inside)


def _known(key: str, name: Any, known: Iterable[str], noun: str, where: str) -> None:
    if name not in known:
        raise BadInput(
            f"{key} names '{printable(str(name), 80)}', which is no {noun}",
            where=where,
            hint=did_you_mean(str(name), known),
        )


def _check_order(graphs: Mapping[str, GraphSource], wiring: Wiring, where: str) -> None:
    """Graphs run in the order they are listed: what feeds another stands before it."""
    order = [name for name in graphs if name != wiring.loop] + [wiring.loop]
    for target, source in wiring.feeds.items():
        later, earlier = (order.index(end.split(".", 1)[0]) for end in (target, source))
        if earlier >= later:
            hint = "graphs run in the order they are listed"
            raise BadInput(f"feeds['{target}'] comes from '{source}', which runs later", where=where, hint=hint)


def _check_shared(source: Source, where: str) -> None:
    """An input that two graphs take under one name is one input: it cannot be two things."""
    wiring = source.wiring
    wired = {*wiring.feeds, *wiring.state, wiring.stop.token} if wiring else set()
    seen: dict[str, TensorSpec] = {}
    for name, graph in source.graphs.items():
        for spec in graph.inputs:
            if f"{name}.{spec.name}" in wired:
                continue
            first = seen.setdefault(spec.name, spec)
            if first != spec:
                hint = "one name is one input: declare it alike, rename it, or wire it"
                raise BadInput(f"input '{spec.name}' is declared as {first} and as {spec}", where=where, hint=hint)
