"""Which groups to spare, if their noises add up: for every amount of work in float, those that spare the most noise."""

from __future__ import annotations

from collections.abc import Sequence

_MOST = 1000  # sets kept at a time, evenly along the work: a search tries ten of them


def front(work: Sequence[float], noise: Sequence[float]) -> list[tuple[int, ...]]:
    """Sets of indices in order of work, each sparing more noise than every set of less work.

    The first is empty, but for groups without work; the last spares all noise. This is the two-objective knapsack by
    merging (Nemhauser and Ullmann 1969), thinned where it grows large, so exact for small problems.

    Args:
        work, noise: of each group, 0 or more.
    """
    sets: list[tuple[float, float, int]] = [(0.0, 0.0, 0)]  # work, noise, bits of the members
    for index in sorted(range(len(work)), key=lambda i: -noise[i] / max(work[i], 1e-9)):
        grown = [(w + work[index], n + noise[index], members | 1 << index) for w, n, members in sets]
        sets = _thinned(_undominated(sorted([*sets, *grown], key=lambda s: (s[0], -s[1]))))
    return [tuple(i for i in range(len(work)) if members >> i & 1) for _, _, members in sets]


def _undominated(by_work: Sequence[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    kept = [by_work[0]]
    for candidate in by_work[1:]:
        if candidate[1] > kept[-1][1]:
            kept.append(candidate)
    return kept


def _thinned(sets: list[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    if len(sets) <= _MOST:
        return sets
    return [sets[round(i * (len(sets) - 1) / (_MOST - 1))] for i in range(_MOST)]
