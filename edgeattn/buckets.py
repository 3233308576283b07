"""Which fixed lengths to build for: buckets, each input going into the smallest that holds it.

An engine of fixed shapes computes the padding too. Of all choices of ``n`` buckets, :func:`choose` takes the one with
the fewest padded positions over the lengths that are met in use. The largest is always the longest length met.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import BadInput, UsageError
from edgeattn.files import read_regular

if TYPE_CHECKING:
    from edgeattn.program import Case, Reference

MOST = 32
_LONGEST = 1 << 20
_MAX_BYTES = 64 << 20


class TooLong(BadInput):
    """An input is longer than the largest bucket."""


def parse(text: str, lengths: Path | None = None, where: str = "--buckets") -> tuple[int, ...]:
    """``16,32,64``; with a file of lengths, how many to choose for them.

    Raises:
        UsageError: not such numbers. BadInput: the file holds no lengths.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,6}(,[1-9][0-9]{0,6})*", text):
        raise UsageError(f"expected lengths, got '{text[:40]}'", where=where, hint="like 16,32,64, or 3 with --lengths")
    sizes = sorted({int(part) for part in text.split(",")})
    if lengths is not None:
        if len(sizes) > 1:
            raise UsageError("with lengths to choose for, a number of buckets is expected", where=where, hint="like 3")
        return choose(read(lengths), sizes[0])
    if len(sizes) > MOST:
        raise UsageError(f"{len(sizes)} buckets are more than {MOST}", where=where, hint="each is an engine of its own")
    return tuple(sizes)


def read(path: Path) -> dict[int, int]:
    """A histogram from a file of lengths: one a line, or ``LENGTH COUNT`` a line; ``#`` begins a comment.

    Raises:
        BadInput: another line, or none.
    """
    counts: Counter[int] = Counter()
    for number, line in enumerate(read_regular(path, _MAX_BYTES).decode("utf-8", "replace").splitlines(), 1):
        said = line.partition("#")[0].replace(",", " ").split()
        if not said:
            continue
        if len(said) > 2 or not all(re.fullmatch(r"[0-9]{1,12}", word) for word in said) or not int(said[0]):
            raise BadInput(f"line {number} is no length", where=str(path), hint="a line is LENGTH, or LENGTH COUNT")
        if int(said[0]) > _LONGEST:
            raise BadInput(f"line {number}: {said[0]} is longer than {_LONGEST}", where=str(path), hint="cut it first")
        counts[int(said[0])] += int(said[1]) if len(said) == 2 else 1
    if not +counts:
        raise BadInput("holds no length", where=str(path), hint="a line is LENGTH, or LENGTH COUNT")
    return dict(+counts)


def choose(histogram: Mapping[int, int], number: int) -> tuple[int, ...]:
    """The ``number`` buckets with the fewest padded positions; fewer where there are fewer lengths.

    Dynamic programming over the distinct lengths ``l_1 < … < l_m`` with counts ``c``: with ``k`` buckets up to ``l_j``,
    ``best(k, j) = min over i < j of best(k − 1, i) + l_j · (c_{i+1} + … + c_j)``, in O(number · m²).

    Raises:
        UsageError: less than one bucket, or more than ``MOST``.
    """
    if not 1 <= number <= MOST:
        raise UsageError(f"{number} buckets", where="--buckets", hint=f"take 1 to {MOST}")
    met = np.array(sorted(histogram), np.int64)
    upto = np.concatenate([[0], np.cumsum([histogram[int(length)] for length in met])]).astype(np.float64)
    best = met * upto[1:]  # positions computed with one bucket up to each length
    came: list[np.ndarray] = []
    for _ in range(min(number, len(met)) - 1):
        source = np.zeros(len(met), np.int64)
        after = best.copy()
        for j in range(1, len(met)):
            costs = best[:j] + met[j] * (upto[j + 1] - upto[1 : j + 1])
            i = int(costs.argmin())
            if costs[i] < after[j]:
                after[j], source[j] = costs[i], i + 1
        best = after
        came.append(source)
    return _traced(met, came)


def _traced(met: np.ndarray, came: Sequence[np.ndarray]) -> tuple[int, ...]:
    """The buckets behind the best cost; ``came[k][j]`` is 1 + where the bucket below ``j`` ends, 0 for no more."""
    j, chosen = len(met) - 1, [int(met[-1])]
    for source in reversed(came):
        if source[j]:
            j = int(source[j]) - 1
            chosen.append(int(met[j]))
    return tuple(sorted(chosen))


def padding(histogram: Mapping[int, int], sizes: Sequence[int]) -> float:
    """The share of computed positions that are padding; lengths beyond the largest bucket do not count."""
    ordered = sorted(sizes)
    held = {length: count for length, count in histogram.items() if length <= ordered[-1]}
    computed = sum(count * next(s for s in ordered if s >= length) for length, count in held.items())
    return 1 - sum(length * count for length, count in held.items()) / computed if computed else 0.0


def within(reference: Reference, run: Callable[[Case], object]) -> Reference:
    """The cases that the buckets hold.

    Raises:
        UsageError: none.
    """
    kept = []
    for case in reference.cases:
        try:
            run(case)
        except TooLong:
            continue
        kept.append(case)
    if not kept:
        raise UsageError(
            "no case fits the buckets", where="buckets", hint="take larger ones, or give --inputs that fit"
        )
    return replace(reference, cases=tuple(kept))
