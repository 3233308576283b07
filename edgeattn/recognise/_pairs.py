"""Two gates over the same features that make one mechanism: CBAM in its three orders, coordinate attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

from edgeattn.graphs import GraphIndex
from edgeattn.recognise._attention import Attention
from edgeattn.recognise._gates import STRIP
from edgeattn.recognise._walk import origin


def pair(index: GraphIndex, found: Sequence[Attention]) -> list[Attention]:
    """The structures with pairs joined, in graph order; half a coordinate attention is none."""
    joined: list[Attention] = []
    used: set[str] = set()
    for join in (_channel_first, _spatial_first, _parallel, _coordinate):  # a chain of gates pairs in the usual order
        for first, second in permutations((a for a in found if a.gate not in used), 2):
            both = join(index, first, second)
            if both and not used & {first.gate, second.gate}:
                used |= {first.gate, second.gate}
                joined.append(both)
    place = {node.output[0]: i for i, node in enumerate(index.nodes)}
    single = [a for a in found if a.gate not in used and a.kind != STRIP]
    return sorted([*single, *joined], key=lambda a: place[a.gate])


def _channel_first(index: GraphIndex, first: Attention, second: Attention) -> Attention | None:
    fits = _halves(first, second) and origin(index, second.features) == first.result
    return _cbam(first, second, second, "channel-first") if fits else None


def _spatial_first(index: GraphIndex, first: Attention, second: Attention) -> Attention | None:
    fits = _halves(second, first) and origin(index, second.features) == first.result
    return _cbam(second, first, second, "spatial-first") if fits else None


def _parallel(index: GraphIndex, first: Attention, second: Attention) -> Attention | None:
    last = _last(index, first, second) if _halves(first, second) else None
    return _cbam(first, second, last, "parallel") if last else None


def _coordinate(index: GraphIndex, first: Attention, second: Attention) -> Attention | None:
    shared = first.kind == second.kind == STRIP and first.nodes & second.nodes
    last = _last(index, first, second) if shared else None
    if last is None:
        return None
    nodes = first.nodes | second.nodes
    return replace(last, kind="coordinate", nodes=nodes)


def _halves(channel: Attention, spatial: Attention) -> bool:
    return channel.kind in ("se", "cam") and spatial.kind == "sam"


def _last(index: GraphIndex, first: Attention, second: Attention) -> Attention | None:
    """Of two gates that multiply the same features one after the other the later one; None if they do not."""
    if origin(index, first.features) != origin(index, second.features):
        return None
    for one, other in ((first, second), (second, first)):
        multiply = index.producer[other.result]
        if one.result == other.result or one.result in (origin(index, name) for name in multiply.input):
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
        parts=(channel, spatial),
        order=order,
    )
