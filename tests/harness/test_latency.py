"""The method is judged in simulated time, where the truth is known; one test times real work."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from edgeattn.errors import UsageError
from edgeattn.harness.latency import compare_many, measure
from edgeattn.harness.resample import median_interval


class Machine:
    """Simulated time: each call takes its cost times the noise of this machine."""

    def __init__(self, noise=0.03, seed=0):
        self.now = 0
        self.noise = noise
        self.rng = np.random.default_rng(seed)

    def clock(self):
        self.now += 50
        return self.now

    def work(self, ms):
        def call():
            spike = 3.0 if self.rng.random() < 0.02 else 1.0
            self.now += round(ms * 1e6 * spike * (1 + self.noise * abs(self.rng.standard_normal())))

        return call


def run(machine, reference, engine, **options):
    return measure(reference, engine, clock=machine.clock, **options)


def test_a_machine_with_ordinary_noise_settles_and_finds_the_true_speedup():
    m = Machine()
    report, raw = run(m, m.work(10), m.work(5), pairs=300)
    low, high = report.speedup.ci95
    assert report.verdict == "pass"
    assert low <= 2.0 <= high
    assert high - low < 0.03
    assert raw.reference_ms.shape == raw.engine_ms.shape == raw.control_ms.shape == (report.rounds,)


def test_quiet_machines_settle_nearly_always():
    verdicts = []
    for seed in range(20):
        m = Machine(seed=seed)
        verdicts.append(run(m, m.work(10), m.work(5), pairs=200, seed=seed)[0].verdict)
    # Three attempts of a 95 % interval: the chance that one of the 20 fails all three is 0.3 %.
    assert verdicts.count("pass") == 20


@pytest.mark.parametrize(("cost", "slower"), [(10.5, True), (9.5, False)])
def test_a_change_of_five_percent_is_seen(cost, slower):
    m = Machine()
    report, _ = run(m, m.work(10), m.work(cost), pairs=300)
    low, high = report.speedup.ci95
    assert report.verdict == "pass"
    assert (high < 1.0) if slower else (low > 1.0)


def test_a_machine_that_drifts_faster_than_a_round_is_inconclusive():
    m = Machine()
    drift = np.random.default_rng(1)

    def engine():  # a neighbour comes and goes within every round
        m.now += round(5e6 * np.exp(drift.normal(0, 0.6)))

    report, _ = run(m, m.work(10), engine, pairs=100)
    assert report.verdict == "inconclusive"
    assert "wider than ±1%" in report.why
    assert [a.rounds for a in report.attempts] == [100, 200, 200]
    assert not any(a.settled for a in report.attempts)


def test_an_engine_whose_turns_differ_within_a_round_is_inconclusive():
    m = Machine(noise=0.001)
    calls = iter(range(10**9))

    def engine():  # every other turn is 5 % slower: ratios of 0.95 and 1.05 that a median could hide
        m.now += round(5e6 * (1.0 if (next(calls) // 2) % 2 == 0 else 1.05))

    assert run(m, m.work(10), engine, pairs=100)[0].verdict == "inconclusive"


def test_a_reference_starved_of_cores_is_inconclusive_although_the_control_settles():
    m = Machine(noise=0.01)
    luck = np.random.default_rng(2)

    def reference():  # threads that wait for each other: mostly 30 times slower, now and then not
        m.now += round(1e7 * (1.0 if luck.random() < 0.1 else 30.0))

    report, _ = run(m, reference, m.work(5), pairs=100)
    low, high = report.aa_control.ci95
    assert low <= 1 <= high
    assert report.verdict == "inconclusive"
    assert report.why.startswith("the reference's median call took 30.0 times its quick ones, it was starved of cores")


def test_a_speedup_that_is_not_known_to_five_percent_is_inconclusive():
    m = Machine(noise=0.01)
    luck = np.random.default_rng(2)

    def reference():
        m.now += round(1e7 * luck.uniform(1.0, 2.5))

    report, _ = run(m, reference, m.work(5), pairs=40)
    assert report.verdict == "inconclusive"
    assert "the speedup is known to ±" in report.why


def test_slow_trends_cancel_within_rounds():
    m = Machine(noise=0.01)

    def warming(ms):  # the machine becomes 60 % slower over the run
        base = m.work(ms)

        def call():
            start = m.now
            base()
            m.now = start + round((m.now - start) * (1 + m.now / 1e10))

        return call

    report, raw = run(m, warming(10), warming(8), pairs=200)
    low, high = report.speedup.ci95
    assert raw.engine_ms[-20:].mean() > 1.3 * raw.engine_ms[:20].mean()
    assert report.verdict == "pass"
    assert low <= 1.25 <= high


def test_short_calls_are_repeated_and_say_so():
    m = Machine()
    report, _ = run(m, m.work(10), m.work(0.1), pairs=50)
    assert report.reference.inner == 1
    assert 75 <= report.engine.inner <= 100


@pytest.mark.parametrize(("pairs", "known"), [(63, ""), (64, "90"), (130, "90 95"), (662, "90 95 99")])
def test_percentiles_need_their_rounds(pairs, known):
    m = Machine(noise=0.001)
    report, _ = run(m, m.work(10), m.work(10), pairs=pairs, max_seconds=1e6)
    assert report.rounds == pairs  # the control settled at once
    stated = [q for q in ("90", "95", "99") if getattr(report.engine, f"p{q}_ms") is not None]
    assert " ".join(stated) == known


def test_the_time_limit_ends_the_rounds_and_is_reported():
    m = Machine()
    report, _ = run(m, m.work(100), m.work(100), pairs=300, max_seconds=30)  # a round takes 0.6 s
    assert 45 <= report.rounds <= 55
    assert "stopped by the time limit" in report.why


def test_too_little_time_for_an_interval_is_inconclusive_without_figures():
    m = Machine()
    report, _ = run(m, m.work(100), m.work(100), pairs=300, max_seconds=2)
    assert report.verdict == "inconclusive"
    assert report.speedup.median is None
    assert report.why == "stopped by the time limit after 3 of 300 rounds; it takes 20 rounds for an interval"


def test_no_further_attempt_is_started_that_does_not_fit():
    m = Machine(noise=2.0)
    report, _ = run(m, m.work(10), m.work(10), pairs=100, max_seconds=20)  # one attempt takes about 16 s
    assert report.verdict == "inconclusive"
    assert len(report.attempts) == 1
    assert "no time was left for another attempt" in report.why


def test_the_same_seed_gives_the_same_figures():
    first, second = Machine(), Machine()
    a = run(first, first.work(10), first.work(7), pairs=50, seed=5)[0]
    b = run(second, second.work(10), second.work(7), pairs=50, seed=5)[0]
    assert a == b


def test_several_candidates_share_rounds_and_have_their_own_control():
    m = Machine()
    calls = {"torch": m.work(10), "ort": m.work(5), "openvino": m.work(2)}
    found = compare_many(calls, pairs=300, clock=m.clock)
    torch, ort, openvino = found.entries
    assert [e.name for e in found.entries] == ["torch", "ort", "openvino"]
    assert torch.speedup is None
    assert ort.speedup.median == pytest.approx(2.0, rel=0.02)
    assert openvino.speedup.median == pytest.approx(5.0, rel=0.02)
    assert found.aa_control in (ort.aa_control, openvino.aa_control)
    assert found.verdict == "pass"


def test_one_unsettled_candidate_makes_a_comparison_inconclusive():
    m = Machine()
    drift = np.random.default_rng(1)

    def restless():
        m.now += round(5e6 * np.exp(drift.normal(0, 0.6)))

    found = compare_many({"a": m.work(10), "calm": m.work(5), "restless": restless}, pairs=100, clock=m.clock)
    assert found.verdict == "inconclusive"
    assert found.aa_control == found.entries[2].aa_control


def test_a_single_call_is_compared_with_itself():
    m = Machine()
    found = compare_many({"ort": m.work(5)}, pairs=100, clock=m.clock)
    assert [e.name for e in found.entries] == ["ort"]
    assert found.aa_control.median == pytest.approx(1.0, abs=0.02)


def test_too_few_pairs_are_refused():
    with pytest.raises(UsageError, match="5 pairs are too few for an interval; give at least 20"):
        measure(lambda: None, lambda: None, pairs=5)


def test_progress_reaches_the_plan():
    m, seen = Machine(noise=0.001), []
    run(m, m.work(10), m.work(10), pairs=20, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (1, 20)
    assert seen[19] == (20, 20)


def test_garbage_collection_is_off_in_rounds_and_back_on_after_a_failure():
    states = []

    def engine():
        states.append(gc.isenabled())
        if len(states) > 500 and not states[-1]:
            raise RuntimeError("the engine died")

    with pytest.raises(RuntimeError, match="the engine died"):
        measure(lambda: None, engine, pairs=20)
    assert gc.isenabled()
    assert not states[-1]


def test_blocks_widen_the_interval_of_a_series_whose_neighbours_are_alike():
    rng = np.random.default_rng(0)
    independent = rng.standard_normal(400)
    walk = np.repeat(rng.standard_normal(40), 10)
    wide = np.subtract(*median_interval(walk)[::-1])
    narrow = np.subtract(*median_interval(independent)[::-1])
    assert wide > 1.5 * narrow


def test_real_work_is_told_apart_from_twice_as_much():
    a = np.random.default_rng(0).standard_normal((96, 96))

    def once():
        return a @ a

    def twice():
        return (a @ a) @ a

    report, _ = measure(twice, once, pairs=60, max_seconds=20)
    # True ratio 2; a busy machine may widen the interval, but not hide a factor of two.
    assert 1.5 < report.speedup.median < 2.6
