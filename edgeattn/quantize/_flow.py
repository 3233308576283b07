"""A network's minimum cut, by shortest augmenting paths. (Ford and Fulkerson 1956; Edmonds and Karp 1972)"""

from __future__ import annotations

from collections import deque
from itertools import pairwise

ENDLESS = 1 << 40
_Node = object


class Flow:
    """A network with integer capacities; nodes are anything hashable."""

    def __init__(self) -> None:
        self._room: dict[_Node, dict[_Node, int]] = {}

    def add(self, edge: tuple[_Node, _Node], capacity: int) -> None:
        """An edge, in addition to what is there."""
        source, target = edge
        if source != target:
            out = self._room.setdefault(source, {})
            out[target] = out.get(target, 0) + capacity
            self._room.setdefault(target, {}).setdefault(source, 0)

    def source_side(self, source: _Node, sink: _Node) -> set[_Node]:
        """What is still reached from the source once the flow is largest: the smallest source side of a cut."""
        while True:
            before = self._reached(source, sink)
            if sink not in before:
                return set(before)
            path = [sink]
            while path[-1] != source:
                path.append(before[path[-1]])
            edges = [(b, a) for a, b in pairwise(path)]
            least = min(self._room[a][b] for a, b in edges)
            for a, b in edges:
                self._room[a][b] -= least
                self._room[b][a] += least

    def _reached(self, source: _Node, sink: _Node) -> dict[_Node, _Node]:
        """Node -> the one before it on a shortest way from the source."""
        before: dict[_Node, _Node] = {source: source}
        queue = deque([source])
        while queue and sink not in before:
            here = queue.popleft()
            for there, room in self._room.get(here, {}).items():
                if room > 0 and there not in before:
                    before[there] = here
                    queue.append(there)
        return before
