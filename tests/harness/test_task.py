from __future__ import annotations

import numpy as np
import pytest

from edgeattn.errors import BadInput
from edgeattn.harness.task import Scored, compare, drop_interval, predictions, scores
from edgeattn.tasks import ACCURACY, PERPLEXITY, PSNR, Batch, Task


def task(count=10, shape_fault=False):
    def test(samples, batch):
        targets = np.arange(count if samples is None else samples) % 3
        for i in range(0, len(targets), batch):
            yield Batch({"x": np.eye(3)[targets[i : i + batch]]}, targets[i : i + batch])

    def score(outputs, targets):
        right = (np.asarray(outputs["logits"]).argmax(-1) == targets).astype(np.float64)
        return right[:, None] if shape_fault else right

    return Task("toy", ACCURACY, test, test, score, dict)


def scored(values):
    return Scored(np.asarray(values, np.float64), tuple(values))


def pairs(n, losses=0, gains=0):
    """Reference and engine scores of n samples of which ``losses`` got worse and ``gains`` better."""
    ref, eng = np.ones(n), np.ones(n)
    eng[:losses] = 0
    ref[losses : losses + gains] = 0
    return scored(ref), scored(eng)


def test_scores_runs_every_sample_once_and_reports_progress():
    seen = []
    found = scores(
        lambda batch: {"logits": batch.feeds["x"]}, task(), None, 4, lambda done, total: seen.append((done, total))
    )
    assert found.scores.tolist() == [1.0] * 10
    assert found.predictions == (0, 1, 2, 0, 1, 2, 0, 1, 2, 0)
    assert seen == [(4, None), (8, None), (10, None)]


def test_an_engine_that_gives_the_wrong_class_loses_that_sample():
    def engine(batch):
        logits = batch.feeds["x"].copy()
        logits[0] = logits[0][::-1]
        return {"logits": logits}

    clean = scores(lambda batch: {"logits": batch.feeds["x"]}, task(), None, 10)
    report = compare(task(), clean, scores(engine, task(), None, 10), max_drop=0.01)
    assert (report.reference, report.engine) == (1.0, 0.9)
    assert report.drop == pytest.approx(0.1, abs=1e-12)
    assert report.agreement == 0.9


def test_swapped_scores_are_refused_when_the_samples_do_not_pair():
    with pytest.raises(BadInput, match="3 reference scores and 2 engine scores"):
        compare(task(), scored([1, 1, 1]), scored([1, 1]), None)


def test_a_task_that_scores_the_wrong_shape_is_named():
    with pytest.raises(BadInput, match=r"task toy: scores have shape \(10, 1\) for 10 samples"):
        scores(lambda batch: {"logits": batch.feeds["x"]}, task(shape_fault=True), None, 10)


def test_a_task_without_samples_is_refused():
    with pytest.raises(BadInput, match="has no test samples"):
        scores(lambda batch: {"logits": batch.feeds["x"]}, task(count=0), None, 10)


def test_no_discordant_pair_gives_the_rule_of_three_and_not_zero():
    low, high = drop_interval(np.zeros(1000))
    # The exact bound is 3.0/n; 10,000 draws place its 2.5 % quantile within about 5 %.
    assert high == pytest.approx(0.003, rel=0.08)
    assert low == pytest.approx(-0.003, rel=0.08)


def test_the_interval_covers_the_true_drop_about_95_times_in_100():
    rng = np.random.default_rng(3)
    losses, gains, n = 0.01, 0.004, 450
    hits = 0
    for trial in range(200):
        drops = rng.choice([1.0, -1.0, 0.0], size=n, p=[losses, gains, 1 - losses - gains])
        low, high = drop_interval(drops, seed=trial)
        hits += low <= losses - gains <= high
    # 95 % of 200 is 190 with a standard deviation of 3.1: below 180 is a fault, not luck.
    assert hits >= 180


@pytest.mark.parametrize(
    ("n", "losses", "gains", "limit", "verdict"),
    [
        (1000, 0, 0, 0.005, "pass"),
        (450, 0, 0, 0.005, "inconclusive"),  # 3/450 = 0.0067: no sample changed and it still cannot be said
        (450, 0, 0, 0.01, "pass"),
        (450, 40, 0, 0.01, "fail"),
        (450, 7, 2, 0.01, "inconclusive"),
        (450, 3, 30, 0.01, "pass"),
        (100, 0, 0, 0.0, "inconclusive"),
    ],
)
def test_verdict_is_a_statement_about_the_whole_interval(n, losses, gains, limit, verdict):
    report = compare(task(), *pairs(n, losses, gains), max_drop=limit)
    assert report.verdict == verdict
    assert (report.why == "") == (verdict == "pass")


def test_too_small_a_sample_says_how_many_it_takes():
    report = compare(task(), *pairs(100), max_drop=0.005)
    assert report.why == "100 samples cannot resolve a drop of 0.005, it takes 598 even if none changes (0 did)"


def test_without_a_limit_the_drop_is_reported_and_not_judged():
    assert compare(task(), *pairs(10, losses=5), max_drop=None).verdict == "n/a"


def test_scores_that_are_not_finite_count_as_wrong():
    broken = Task("toy", ACCURACY, task().train, task().test, lambda o, t: np.full(len(t), np.nan), dict)
    assert scores(lambda batch: {"logits": batch.feeds["x"]}, broken, None, 10).scores.tolist() == [0.0] * 10


def test_decoded_tokens_compare_without_their_padding():
    short = predictions({"tokens": np.array([[5, 3, 1]])}, 1)
    long = predictions({"tokens": np.array([[5, 3, 1, 1, 1]])}, 1)
    assert short == long == [(5, 3, 1)]


def test_predictions_prefer_logits_over_other_outputs():
    outputs = {"mask": np.array([[0.9, 0.1]]), "logits": np.array([[0.1, 0.9]])}
    assert predictions(outputs, 1) == [1]


def test_outputs_without_the_batch_are_named():
    with pytest.raises(BadInput, match="no output has 4 samples on axis 0; outputs: y"):
        predictions({"y": np.zeros((1, 4))}, 4)


def unbounded(metric, also=()):
    return Task("toy", metric, task().train, task().test, lambda o, t: t, dict, also=dict(also))


def test_decibels_are_paired_over_the_samples_and_more_is_better():
    rng = np.random.default_rng(0)
    ref = rng.normal(30, 3, 200)
    lost = rng.normal(0.1, 0.02, 200)
    report = compare(unbounded(PSNR), Scored(ref, ()), Scored(ref - lost, ()), max_drop=0.2)
    assert report.unit == "dB"
    assert report.drop == pytest.approx(lost.mean())
    # the images differ by 3 dB, the pairs by 0.02: the interval must be that of the pairs
    assert report.ci95[1] - report.ci95[0] == pytest.approx(2 * 1.96 * 0.02 / 200**0.5, rel=0.15)
    assert report.verdict == "pass"
    assert report.agreement is None


def test_perplexity_is_the_exponential_of_the_mean_and_less_is_better():
    ref = np.log(np.full(50, 2.0))
    report = compare(unbounded(PERPLEXITY), Scored(ref, ()), Scored(ref + np.log(1.5), ()), max_drop=0.5)
    assert (report.reference, report.engine) == (pytest.approx(2.0), pytest.approx(3.0))
    assert report.drop == pytest.approx(1.0)
    assert (report.higher_is_better, report.verdict) == (False, "fail")


def test_a_log_likelihood_that_is_not_finite_counts_as_impossible():
    broken = Task("toy", PERPLEXITY, task().train, task().test, lambda o, t: np.full(len(t), np.inf), dict)
    assert scores(lambda batch: {"logits": batch.feeds["x"]}, broken, None, 10).scores.tolist() == [100.0] * 10


def test_further_figures_are_reported_beside_the_metric():
    known = unbounded(PSNR, {"double": lambda outputs, targets: 2.0 * targets})
    found = scores(lambda batch: {"logits": batch.feeds["x"]}, known, None, 10)
    report = compare(known, found, found, None)
    assert report.also["double"].engine == pytest.approx(1.8)  # twice the mean of ten labels 0, 1, 2, 0 …
