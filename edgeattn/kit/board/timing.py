"""Latency on the board, as edgeattn measures it elsewhere: paired, interleaved, with a control.

A round times the baseline, the engine, and the engine again, in random order that every second round mirrors; each turn
opens with one untimed call, and calls shorter than 5 ms are repeated within it to about 10 ms. What counts is the ratio
within a round. The engine against itself is the control: if its 95 % interval excludes 1.00 or is wider than ±1 %, the
rounds are taken afresh, twice as many, twice at most; if none settles, the verdict is ``inconclusive``.

Where no other kit is given to compare with (``--against``), the baseline is the engine itself.
"""

from __future__ import annotations

import gc
import math
import time
from typing import Any, Callable, Sequence

import numpy as np

Array = Any
Call = Callable[[], object]
ATTEMPTS, CONTROL, KNOWN, STRAIN, FEWEST, RESAMPLES = (1, 2, 2), 0.01, 0.05, 2.0, 20, 4000
SHORT_NS, TURN_NS = 5_000_000, 10_000_000
PERCENTILES = {"p90_ms": (90, 64), "p95_ms": (95, 130), "p99_ms": (99, 662)}  # and the rounds each needs at 99 %


def measure(
    baseline: Call,
    engine: Call,
    pairs: int,
    seed: int,
    max_seconds: float,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[dict[str, Any], Array]:
    """The report's latency section but for its words, and the rounds ``(3, n)``: baseline, engine, control in ms."""
    calls = (baseline, engine, engine)
    warm = [_warm_up(call, clock) for call in calls[:2]]
    inner = [count for _, count in warm] + [warm[1][1]]
    rng, deadline = np.random.default_rng(seed), clock() + int(max_seconds * 1e9)
    attempts: list[dict[str, Any]] = []
    turns: list[list[Array]] = [[], [], []]
    for multiple in ATTEMPTS:
        if attempts and clock() >= deadline:
            break
        turns = _rounds(calls, inner, pairs * multiple, rng, deadline, clock)
        attempts.append(_attempt([_medians(turn) for turn in turns], seed))
        if attempts[-1]["settled"]:
            break
    last = attempts[-1]
    told = {
        "reference": _latencies(turns[0], inner[0]),
        "engine": _latencies(turns[1], inner[1]),
        **{key: last[key] for key in ("speedup", "aa_control", "rounds")},
        "warmup_calls": max(calls for calls, _ in warm),
        "seed": seed,
        "attempts": attempts,
        "verdict": "pass" if last["settled"] else "inconclusive",
        "why": last["why"],
    }
    return told, np.stack([_medians(turn) for turn in turns])


def _rounds(
    calls: Sequence[Call], inner: Sequence[int], wanted: int, rng: Any, deadline: int, clock: Callable[[], int]
) -> list[list[Array]]:
    taken: list[list[Array]] = [[] for _ in calls]
    order: list[int] = []
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for number in range(wanted):
            if clock() >= deadline:
                break
            order = order[::-1] if number % 2 else [int(i) for i in rng.permutation(len(calls))]
            for turn in order:
                taken[turn].append(_turn(calls[turn], inner[turn], clock))
    finally:
        if was_on:
            gc.enable()
    return taken


def _turn(call: Call, inner: int, clock: Callable[[], int]) -> Array:
    call()  # hands the cores over and refills the caches
    times = np.empty(inner)
    for i in range(inner):
        start = clock()
        call()
        times[i] = clock() - start
    return np.maximum(times, 1.0) / 1e6


def _warm_up(call: Call, clock: Callable[[], int], windows: int = 30, limit_ns: float = 5e9) -> tuple[int, int]:
    """Call until three windows in a row agree within 2 %; how often it was called, and the calls of a turn."""
    medians: list[float] = []
    count, began = 0, clock()
    while len(medians) < windows and clock() - began <= limit_ns:
        opened = clock()
        times: list[int] = []
        while len(times) < 3 or (clock() - opened < 3e7 and len(times) < 1000):
            start = clock()
            call()
            times.append(clock() - start)
        count += len(times)
        medians.append(float(np.median(times)))
        if len(medians) >= 3 and max(medians[-3:]) <= 1.02 * min(medians[-3:]):
            break
    each = max(medians[-1], 1.0)
    return count, 1 if each >= SHORT_NS else min(1000, math.ceil(TURN_NS / each))


def _medians(turn: Sequence[Array]) -> Array:
    return np.array([float(np.median(times)) for times in turn])


def _attempt(ms: Sequence[Array], seed: int) -> dict[str, Any]:
    rounds = len(ms[0])
    if rounds < FEWEST:
        unknown: dict[str, Any] = {"median": None, "ci95": [None, None]}
        why = f"it takes {FEWEST} rounds for an interval, and time was left for {rounds}"
        return {"rounds": rounds, "speedup": unknown, "aa_control": unknown, "settled": False, "why": why}
    control, speedup = _ratio(ms[1], ms[2], seed), _ratio(ms[0], ms[1], seed)
    why = _unsettled(control["ci95"]) or _strained(ms[:2], speedup["ci95"])
    return {"rounds": rounds, "speedup": speedup, "aa_control": control, "settled": not why, "why": why}


def _unsettled(bounds: Sequence[float]) -> str:
    low, high = bounds
    seen = f"the engine against itself measured [{low:.4f}, {high:.4f}]"
    if not low <= 1.0 <= high:
        return seen + ", which excludes 1.00"
    return seen + ", wider than ±1 %" if (high - low) / 2 > CONTROL else ""


def _strained(sides: Sequence[Array], bounds: Sequence[float]) -> str:
    for name, ms in zip(("baseline", "engine"), sides):
        median, quick = float(np.median(ms)), float(np.quantile(ms, 0.05))
        if median > STRAIN * quick:
            return f"the {name}'s median call took {median / quick:.1f} times its quick ones"
    half = math.sqrt(bounds[1] / bounds[0]) - 1
    return f"the ratio is known to ±{100 * half:.0f} % only" if half > KNOWN else ""


def _ratio(numerator: Array, denominator: Array, seed: int) -> dict[str, Any]:
    """Median of the per-round ratios with its 95 % interval, by a circular block bootstrap of their logarithms."""
    logs = np.log(numerator) - np.log(denominator)
    n = len(logs)
    block = max(1, round(n ** (1 / 3)))
    rng, medians = np.random.default_rng(seed), []
    for _ in range(RESAMPLES // 100):  # a hundred at a time: the memory of a board is small
        heads = rng.integers(0, n, size=(100, -(-n // block), 1))
        picks = ((heads + np.arange(block)) % n).reshape(100, -1)[:, :n]
        medians.append(np.median(logs[picks], axis=1))
    low, high = np.quantile(np.concatenate(medians), [0.025, 0.975])
    return {"median": float(np.exp(np.median(logs))), "ci95": [float(np.exp(low)), float(np.exp(high))]}


def _latencies(turn: Sequence[Array], inner: int) -> dict[str, Any]:
    """Percentiles of single calls; one that the rounds are too few for is null."""
    ms = np.concatenate(list(turn)) if turn else np.empty(0)
    told: dict[str, Any] = {"p50_ms": float(np.median(ms)) if ms.size else None}
    for key, (q, fewest) in PERCENTILES.items():
        told[key] = float(np.percentile(ms, q)) if len(turn) >= fewest else None
    told.update({"min_ms": float(ms.min()) if ms.size else None, "n": len(turn), "inner": inner})
    return told
