"""Latency: is the engine faster, by how much, and could this machine tell just now?

One process, rounds in random order. A round times the reference, the engine, and the engine again; every second round
mirrors the order of the one before, so each pair is met as often AB as BA. What counts is the ratio within a round,
where both sides meet the same machine; the figure is the median of those ratios with a 95 % block-bootstrap interval.

The engine's second turn is the A/A control: its true ratio is 1.00. If its interval excludes 1.00, or is wider than
±1 %, this machine could not tell two runs of one engine apart, and no speedup measured beside it means much. Then the
rounds are dropped and taken afresh, twice as many, twice at most: a disturbance would taint whatever is pooled with it.
The choice looks at the control only, never at the speedup, and every attempt is in the report with both. If none
settles, the verdict is ``inconclusive``. So it is when the speedup is known no better than to ±5 %, or one side was
starved of cores (its median call took twice its quick ones): the control watches the engine only. (A 95 % interval
misses 1.00 once in 20 attempts on a quiet machine too.)

Details that decide whether a control settles:

* Each turn starts with one untimed call. It hands the cores over (thread pools spin for a while after their last
  task) and refills the caches, so the timed calls show the steady state an application sees.
* Calls shorter than 5 ms are repeated within the turn to about 10 ms, and the turn counts with their median: one
  interrupt, or a few milliseconds lost to another process, do not become a ratio. Two clock reads (about 0.1 µs) are
  part of every timed call.
* Garbage collection is off during rounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import UsageError
from edgeattn.harness.resample import ratio
from edgeattn.harness.rounds import Bench, Call, Clock, Progress, no_gc, warm_up
from edgeattn.report.evidence import RawSamples
from edgeattn.report.schema import Attempt, Comparison, Contender, LatencyReport, Ratio, SectionVerdict

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from edgeattn.program import Array

CONTROL_HALF_WIDTH = 0.01
SPEEDUP_HALF_WIDTH = 0.05
STRAIN = 2.0
"""Median over 5 % quantile; 1.0 to 1.3 where a process has its cores to itself."""
ATTEMPTS = (1, 2, 2)
"""Rounds of each attempt, as multiples of ``pairs``."""
MIN_ROUNDS = 20


def measure(
    reference: Call,
    engine: Call,
    *,
    pairs: int = 300,
    seed: int = 0,
    unit: str = "inference",
    threads: int = 0,
    progress: Progress | None = None,
    max_seconds: float = 240.0,
    clock: Clock = time.perf_counter_ns,
) -> tuple[LatencyReport, RawSamples]:
    """Time an engine against its reference.

    Args:
        reference, engine: one unit of work each.
        pairs: rounds of the first attempt; a second and third take twice as many.
        seed: of the order within rounds and of the bootstrap.
        unit: what one call is, for the report. threads: threads given to both, for the report.
        progress: called with (rounds done, rounds planned).
        max_seconds: no round starts later than this after the first, and no attempt that would not fit is started.
        clock: nanoseconds, monotonic.
    """
    calls = {"reference": reference, "engine": engine}
    options = {"pairs": pairs, "seed": seed, "unit": unit, "threads": threads, "max_seconds": max_seconds}
    return _time(calls, **options, progress=progress, clock=clock)["engine"]  # type: ignore[arg-type]


def compare_many(
    calls: Mapping[str, Call],
    *,
    pairs: int = 300,
    seed: int = 0,
    unit: str = "inference",
    threads: int = 0,
    progress: Progress | None = None,
    max_seconds: float = 240.0,
    clock: Clock = time.perf_counter_ns,
) -> Comparison:
    """Time several calls in the same rounds; the first is the baseline, each other has its own A/A control.

    A single call is compared with itself: its figures, and what this machine can resolve. Arguments as ``measure``.
    """
    options = {"pairs": pairs, "seed": seed, "unit": unit, "threads": threads, "max_seconds": max_seconds}
    timed = _time(calls, **options, progress=progress, clock=clock)  # type: ignore[arg-type]
    baseline = next(iter(calls))
    reports = {name: report for name, (report, _) in timed.items()}
    first = next(iter(reports.values()))
    worst = max(reports.values(), key=lambda r: (r.verdict == "inconclusive", _width(r.aa_control)))
    others = [
        Contender(name=name, latency=r.engine, speedup=r.speedup, aa_control=r.aa_control)
        for name, r in reports.items()
        if name != baseline
    ]
    return Comparison(
        entries=(Contender(name=baseline, latency=first.reference), *others),
        aa_control=worst.aa_control,
        rounds=first.rounds,
        threads=threads,
        unit=unit,
        seed=seed,
        verdict=worst.verdict,
        why=worst.why,
    )


def unit_of(sessions: Iterable[object], wired: bool) -> str:
    """What one call is, in words: an inference or a sequence, and what it does beside computing."""
    carried = dict.fromkeys(said for session in sessions if (said := getattr(session, "carries", "")))
    return " with ".join(["sequence" if wired else "inference", *carried])


def _time(
    calls: Mapping[str, Call],
    *,
    pairs: int,
    seed: int,
    unit: str,
    threads: int,
    progress: Progress | None,
    max_seconds: float,
    clock: Clock,
) -> dict[str, tuple[LatencyReport, RawSamples]]:
    """name -> (report, raw samples) for every call but the baseline, or for the baseline if it is alone."""
    if pairs < MIN_ROUNDS:
        raise UsageError(f"{pairs} pairs are too few for an interval", hint=f"give at least {MIN_ROUNDS}")
    baseline, *others = calls
    candidates = others or [baseline]
    # One warm-up per call: two turns of one engine must repeat equally often, or their medians are not alike.
    warm = {name: warm_up(call, clock) for name, call in calls.items()}
    turns = [baseline, *(name for name in candidates for _ in range(2))]
    rng = np.random.default_rng(seed)
    bench = Bench([calls[t] for t in turns], [warm[t] for t in turns], rng, clock, max_seconds)
    attempts: dict[str, list[Attempt]] = {name: [] for name in candidates}
    planned = pairs
    with no_gc():
        for multiple in ATTEMPTS:
            if bench.rounds and not bench.fits(pairs * multiple):
                break
            planned = pairs * multiple
            bench.collect(planned, progress)
            for i, name in enumerate(candidates):
                attempts[name].append(_attempt(bench, 1 + 2 * i, seed))
            if all(tried[-1].settled for tried in attempts.values()) or bench.out_of_time:
                break
    return {
        name: _report(bench, 1 + 2 * i, tuple(attempts[name]), planned, seed=seed, unit=unit, threads=threads)
        for i, name in enumerate(candidates)
    }


def _attempt(bench: Bench, column: int, seed: int) -> Attempt:
    if bench.rounds < MIN_ROUNDS:
        unknown = Ratio(median=None, ci95=(None, None))
        why = f"it takes {MIN_ROUNDS} rounds for an interval"
        return Attempt(rounds=bench.rounds, speedup=unknown, aa_control=unknown, settled=False, why=why)
    control = ratio(bench.turn(column), bench.turn(column + 1), seed)
    speedup = ratio(bench.turn(0), bench.turn(column), seed)
    why = _unsettled(control) or _strained(speedup, bench.turn(0), bench.turn(column))
    return Attempt(rounds=bench.rounds, speedup=speedup, aa_control=control, settled=not why, why=why)


def _unsettled(control: Ratio) -> str:
    """What is wrong with an A/A control; empty when it settled."""
    low, high = _bounds(control)
    seen = f"the engine against itself measured [{low:.4f}, {high:.4f}]"
    if not low <= 1.0 <= high:
        return f"{seen}, which excludes 1.00"
    return f"{seen}, wider than ±{CONTROL_HALF_WIDTH:.0%}" if (high - low) / 2 > CONTROL_HALF_WIDTH else ""


def _strained(speedup: Ratio, reference: Array, engine: Array) -> str:
    """Signs of a starved side, which the control cannot see when it is the reference: threads that wait for a core
    another process holds make calls many times slower, and a speedup over such calls is not the engine's merit."""
    for name, ms in (("reference", reference), ("engine", engine)):
        median, quick = float(np.median(ms)), float(np.quantile(ms, 0.05))
        if median > STRAIN * quick:
            return f"the {name}'s median call took {median / quick:.1f} times its quick ones, it was starved of cores"
    low, high = _bounds(speedup)
    half = math.sqrt(high / low) - 1
    return f"the speedup is known to ±{half:.0%} only" if half > SPEEDUP_HALF_WIDTH else ""


def _width(measured: Ratio) -> float:
    low, high = measured.ci95
    return math.inf if low is None or high is None else high - low


def _bounds(measured: Ratio) -> tuple[float, float]:
    low, high = measured.ci95
    assert low is not None
    assert high is not None
    return low, high


def _report(
    bench: Bench, column: int, attempts: tuple[Attempt, ...], planned: int, *, seed: int, unit: str, threads: int
) -> tuple[LatencyReport, RawSamples]:
    raw = RawSamples(bench.turn(0), bench.turn(column), bench.turn(column + 1))
    verdict, why = _judge(bench, attempts, planned)
    report = LatencyReport(
        reference=bench.latencies(0),
        engine=bench.latencies(column),
        speedup=attempts[-1].speedup,
        aa_control=attempts[-1].aa_control,
        rounds=bench.rounds,
        threads=threads,
        unit=unit,
        warmup_calls=max(w.calls for w in bench.warm),
        seed=seed,
        attempts=attempts,
        verdict=verdict,
        why=why,
    )
    return report, raw


def _judge(bench: Bench, attempts: tuple[Attempt, ...], planned: int) -> tuple[SectionVerdict, str]:
    last = attempts[-1]
    stopped = f"stopped by the time limit after {bench.rounds} of {planned} rounds" if bench.out_of_time else ""
    if last.settled:
        restless = "" if all(w.steady for w in bench.warm) else "the warm-up did not become steady within 2 %"
        return "pass", "; ".join(filter(None, [stopped, restless]))
    if bench.rounds < MIN_ROUNDS:
        return "inconclusive", f"{stopped}; {last.why}"
    if not stopped and len(attempts) < len(ATTEMPTS):
        stopped = "no time was left for another attempt"
    tries = f"in the last of {len(attempts)} attempts ({bench.rounds} rounds): this machine is too busy to tell"
    return "inconclusive", "; ".join(filter(None, [f"{last.why}, {tries}", stopped]))
