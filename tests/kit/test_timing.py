"""Timing on a clock that is moved by hand: what is measured is known."""

from __future__ import annotations

import pytest

from edgeattn.harness.resample import ratio
from edgeattn.kit.board import timing
from edgeattn.report.schema import LatencyReport


class Clock:
    """Nanoseconds that pass only when a call takes them."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def call(self, *milliseconds: float) -> timing.Call:
        """A call that takes these times in turn."""
        turns = list(milliseconds)

        def run() -> None:
            turns.append(turns.pop(0))
            self.now += int(turns[-1] * 1e6)

        return run


def test_the_ratio_the_control_and_the_percentiles_are_what_was_timed() -> None:
    clock = Clock()
    told, rounds = timing.measure(clock.call(12.0), clock.call(6.0), 70, 0, 60.0, clock)
    report = LatencyReport.model_validate({**told, "threads": 0})  # the schema of our report takes it as it is
    assert report.verdict == "pass"
    assert report.speedup.median == pytest.approx(2.0)
    assert report.aa_control.median == pytest.approx(1.0)
    assert (report.rounds, rounds.shape) == (70, (3, 70))
    assert (report.engine.p50_ms, report.engine.p90_ms, report.engine.p95_ms) == (6.0, 6.0, None)  # 64 and 130 rounds
    assert report.engine.inner == 1


def test_short_calls_are_repeated_within_a_turn() -> None:
    clock = Clock()
    told, _ = timing.measure(clock.call(1.0), clock.call(1.0), 20, 0, 60.0, clock)
    assert told["engine"]["inner"] == 10  # to about 10 ms


def test_a_restless_engine_is_inconclusive_after_three_attempts() -> None:
    clock = Clock()
    told, _ = timing.measure(clock.call(10.0), clock.call(6.0, 9.0, 20.0, 7.0, 6.5), 20, 0, 600.0, clock)
    assert told["verdict"] == "inconclusive"
    assert [attempt["rounds"] for attempt in told["attempts"]] == [20, 40, 40]
    assert told["why"]


def test_a_time_limit_leaves_what_was_measured_and_no_interval() -> None:
    clock = Clock()
    told, rounds = timing.measure(clock.call(100.0), clock.call(100.0), 50, 0, 3.0, clock)
    assert told["verdict"] == "inconclusive"
    assert told["rounds"] == rounds.shape[1] < 20
    assert told["speedup"] == {"median": None, "ci95": [None, None]}


def test_the_median_is_the_one_that_is_taken_again_at_home() -> None:
    clock = Clock()
    told, rounds = timing.measure(clock.call(10.0, 11.0, 10.5), clock.call(7.0, 7.1), 30, 0, 60.0, clock)
    assert told["speedup"]["median"] == pytest.approx(ratio(rounds[0], rounds[1]).median, rel=1e-12)
