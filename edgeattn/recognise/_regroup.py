"""Which dimensions of a tensor become which when it is reshaped, told by sizes that agree from either end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

from edgeattn.recognise._graph import Dims

Size: TypeAlias = "int | str"
_Key: TypeAlias = tuple[int, tuple[tuple[str, int], ...]]


def segments(before: Dims, after: Dims) -> list[tuple[list[int], list[int]]] | None:
    """Runs of dimensions that hold the same elements before and after, dimensions of size one left out.

    ``(B, 6, 8, 4)`` to ``(B, 48, 4)`` is ``[([0], [0]), ([1, 2], [1]), ([3], [2])]``. None where nothing fits.
    """
    old, new = ([i for i, n in enumerate(dims) if n != 1] for dims in (before, after))
    sizes, others = _renamed([before[i] for i in old], [after[i] for i in new])
    cuts = {(0, 0), (len(old), len(new))}
    heads = {_key(others[:j]): j for j in range(len(others) + 1)}
    tails = {_key(others[j:]): j for j in range(len(others) + 1)}
    for i in range(len(sizes) + 1):
        cuts |= {(i, found[key]) for found, key in ((heads, _key(sizes[:i])), (tails, _key(sizes[i:]))) if key in found}
    chain = [(0, 0)]
    for i, j in sorted(cuts)[1:]:
        if i > chain[-1][0] and j > chain[-1][1]:
            chain.append((i, j))
    if chain[-1] != (len(old), len(new)):
        return None if old or new else []
    return [
        (old[i:k], new[j:m]) for (i, j), (k, m) in pairwise(chain)
    ]  # fmt: skip


def _key(sizes: Sequence[Size]) -> _Key:
    """How many elements: the numbers' product, and the symbols."""
    numbers = math.prod(n for n in sizes if isinstance(n, int))
    return numbers, tuple(sorted(Counter(n for n in sizes if isinstance(n, str)).items()))


def _renamed(before: list[Size], after: list[Size]) -> tuple[list[Size], list[Size]]:
    """One name for the one symbol on either side that the other does not know, if the numbers agree."""
    ours = [n for n in before if isinstance(n, str) and n not in after]
    theirs = [n for n in after if isinstance(n, str) and n not in before]
    if len(ours) == len(theirs) == 1 and _key(before)[0] == _key(after)[0]:
        after = [ours[0] if n == theirs[0] else n for n in after]
    return before, after
