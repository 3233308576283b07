"""Two gates over the same features that make one mechanism: CBAM in its three orders, coordinate attention."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations

from edgeattn.recognise._attention import Attention
from edgeattn.recognise._gates import STRIP
from edgeattn.recognise._graph import DATA, Graph

_Join = Callable[[Graph, Attention, Attention], "Attention | None"]
_MOST_ALIKE = 16  # gates on one tensor that are tried with one another


def pair(graph: Graph, found: Sequence[Attention]) -> list[Attention]:
    """The structures with pairs joined, in graph order; half a coordinate attention is none."""
    joined: list[Attention] = []
    used: set[str] = set()
    searches: tuple[tuple[_Join, Callable[..., Iterator[tuple[Attention, Attention]]]], ...] = (
        (_channel_first, _followed),  # a chain of gates pairs in the usual order
        (_spatial_first, _followed),
        (_parallel, _beside),
        (_coordinate, _beside),
    )
    for join, candidates in searches:
        for first, second in candidates(graph, found):
            both = None if used & {first.gate, second.gate} else join(graph, first, second)
            if both:
                used |= {first.gate, second.gate}
                joined.append(both)
    place = {node.output[0]: i for i, node in enumerate(graph.nodes)}
    single = [a for a in found if a.gate not in used and a.kind != STRIP]
    return sorted([*single, *joined], key=lambda a: place.get(a.gate, 0))


def _followed(graph: Graph, found: Sequence[Attention]) -> Iterator[tuple[Attention, Attention]]:
    """Gates and those that gate their results."""
    by_result = {graph.root(a.result): a for a in found}
    for second in found:
        first = by_result.get(graph.root(second.features))
        if first is not None and first is not second:
            yield first, second


def _beside(graph: Graph, found: Sequence[Attention]) -> Iterator[tuple[Attention, Attention]]:
    """Gates on the same features."""
    by_features = defaultdict(list)
    for a in found:
        by_features[graph.root(a.features)].append(a)
    for alike in by_features.values():
        yield from permutations(alike[:_MOST_ALIKE], 2)


def _channel_first(graph: Graph, first: Attention, second: Attention) -> Attention | None:
    return _cbam(first, second, second, "channel-first") if _halves(first, second) else None


def _spatial_first(graph: Graph, first: Attention, second: Attention) -> Attention | None:
    return _cbam(second, first, second, "spatial-first") if _halves(second, first) else None


def _parallel(graph: Graph, first: Attention, second: Attention) -> Attention | None:
    last = _last(graph, first, second) if _halves(first, second) else None
    return _cbam(first, second, last, "parallel") if last else None


def _coordinate(graph: Graph, first: Attention, second: Attention) -> Attention | None:
    shared = first.kind == second.kind == STRIP and first.nodes & second.nodes
    last = _last(graph, first, second) if shared else None
    return replace(last, kind="coordinate", nodes=first.nodes | second.nodes) if last else None


def _halves(channel: Attention, spatial: Attention) -> bool:
    return channel.kind in ("se", "cam") and spatial.kind == "sam"


def _last(graph: Graph, first: Attention, second: Attention) -> Attention | None:
    """Of two gates that multiply the same features one after the other the later one; None if they do not."""
    for one, other in ((first, second), (second, first)):
        multiply = graph.producer[other.result]
        if one.result == other.result or one.result in (
            graph.root(n) for n in multiply.input if graph.level(n) == DATA
        ):
            return other
    return None


def _cbam(channel: Attention, spatial: Attention, last: Attention, order: str) -> Attention:
    first = spatial if last is channel else channel
    return replace(
        channel,
        kind="cbam",
        nodes=channel.nodes | spatial.nodes,
        gate=last.gate,
        features=first.features,
        result=last.result,
        kernel=spatial.kernel,
        pools=tuple(sorted({*channel.pools, *spatial.pools})),
        parts=(channel, spatial),
        order=order,
    )
