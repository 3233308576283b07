"""Rounds of timed calls: warm-up, random mirrored order, and the table they fill. See latency.py for the method."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.report.schema import Latencies

if TYPE_CHECKING:
    from edgeattn.program import Array

Call = Callable[[], object]
Clock = Callable[[], int]
Progress = Callable[[int, int], None]

SHORT_CALL_NS, TURN_NS, MAX_INNER = 5_000_000, 10_000_000, 1000
PERCENTILE_ROUNDS = {90: 64, 95: 130, 99: 662}
"""Rounds that state a percentile at 99 % confidence."""


@dataclass(frozen=True)
class Warm:
    """A call after its warm-up: nanoseconds per call, calls it took, and whether it became steady."""

    call_ns: float
    calls: int
    steady: bool

    @property
    def inner(self) -> int:
        """Timed calls per turn."""
        if self.call_ns >= SHORT_CALL_NS:
            return 1
        return min(MAX_INNER, math.ceil(TURN_NS / max(self.call_ns, 1.0)))


class Bench:
    """The table of timed calls of one attempt: one row per round, one column per turn."""

    def __init__(
        self, turns: Sequence[Call], warm: Sequence[Warm], rng: np.random.Generator, clock: Clock, max_seconds: float
    ) -> None:
        self.turns, self.warm, self.rng, self.clock = turns, warm, rng, clock
        self.deadline = clock() + round(max_seconds * 1e9)
        self.calls_ns: list[list[Array]] = [[] for _ in turns]
        self.order: list[int] = []
        self.pace_ns = 0.0
        self.out_of_time = False

    @property
    def rounds(self) -> int:
        """Rounds taken."""
        return len(self.calls_ns[0])

    def fits(self, rounds: int) -> bool:
        """Whether that many more rounds end before the deadline, at the pace of the last ones."""
        return self.clock() + self.pace_ns * rounds <= self.deadline

    def collect(self, rounds: int, progress: Progress | None) -> None:
        """Take that many rounds afresh, fewer if the time is up."""
        self.calls_ns = [[] for _ in self.turns]
        began = self.clock()
        while self.rounds < rounds:
            if self.clock() >= self.deadline:
                self.out_of_time = True
                return
            mirror = self.rounds % 2 == 1
            self.order = self.order[::-1] if mirror else self.rng.permutation(len(self.turns)).tolist()
            for turn in self.order:
                self.calls_ns[turn].append(_turn(self.turns[turn], self.warm[turn].inner, self.clock))
            self.pace_ns = (self.clock() - began) / self.rounds
            if progress is not None:
                progress(self.rounds, rounds)

    def turn(self, index: int) -> Array:
        """``(rounds,)`` milliseconds: the median call of every turn."""
        return np.array([np.median(calls) for calls in self.calls_ns[index]]) / 1e6

    def latencies(self, index: int) -> Latencies:
        """Percentiles over single calls; a percentile needs enough rounds, calls of one turn are not independent."""
        ms = np.concatenate(self.calls_ns[index]) / 1e6 if self.rounds else np.empty(0)
        wanted = {q: float(np.percentile(ms, q)) for q, n in PERCENTILE_ROUNDS.items() if self.rounds >= n}
        return Latencies(
            p50_ms=float(np.median(ms)) if ms.size else None,
            p90_ms=wanted.get(90),
            p95_ms=wanted.get(95),
            p99_ms=wanted.get(99),
            min_ms=float(ms.min()) if ms.size else None,
            n=self.rounds,
            inner=self.warm[index].inner,
        )


def _turn(call: Call, inner: int, clock: Clock) -> Array:
    call()
    taken = np.empty(inner)
    for i in range(inner):
        start = clock()
        call()
        taken[i] = clock() - start
    return np.maximum(taken, 1.0)  # a clock that did not tick: at least its resolution, never zero


def warm_up(call: Call, clock: Clock, window_ns: float = 3e7, windows: int = 30, limit_ns: float = 5e9) -> Warm:
    """Call until three windows in a row agree within 2 %, or the limit is reached."""
    medians: list[float] = []
    count, began = 0, clock()
    while len(medians) < windows:
        opened = clock()
        taken: list[int] = []
        while len(taken) < 3 or (clock() - opened < window_ns and len(taken) < 1000):
            start = clock()
            call()
            taken.append(clock() - start)
        count += len(taken)
        medians.append(float(np.median(taken)))
        last = medians[-3:]
        if len(last) == 3 and max(last) <= 1.02 * min(last):
            return Warm(medians[-1], count, steady=True)
        if clock() - began > limit_ns:
            break
    return Warm(medians[-1], count, steady=False)


@contextmanager
def no_gc() -> Iterator[None]:
    """Garbage collected before, switched off inside, as it was afterwards."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
