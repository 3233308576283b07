from __future__ import annotations

import numpy as np
import pytest

from edgeattn import backends, calib, graphs, models, weights
from edgeattn.quantize import RANGES, Settings, quantize
from edgeattn.quantize._ranges import BINS, METHODS, Histogram, peak

RNG = np.random.default_rng(0)


def histogram(*batches: np.ndarray) -> Histogram:
    seen = Histogram()
    for values in batches:
        seen.add(values)
    return seen


def test_every_method_that_users_can_name_is_there() -> None:
    assert tuple(METHODS) == RANGES


def test_minmax_is_the_largest_magnitude_exactly() -> None:
    assert peak("minmax", histogram(np.array([0.1, -3.3])), 127) == 3.3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("levels", [127, 255])
def test_no_method_goes_beyond_what_was_seen_and_none_fails_on_little(method: str, levels: int) -> None:
    for values in ([0.0], [1e-30], [5.0, 5.0], [1e-3, 1e4], RNG.standard_normal(50)):
        seen = histogram(np.array(values))
        assert 0 <= peak(method, seen, levels) <= seen.peak
    assert peak(method, histogram(np.zeros(9)), levels) == 0


def test_a_growing_range_merges_bins_and_keeps_every_count() -> None:
    values = [RNG.standard_normal(1000) * scale for scale in (1e-3, 1.0, 37.0)]
    seen = histogram(*values)
    everything = np.concatenate(values)
    assert seen.counts.sum() == 3000
    assert seen.counts.size == BINS
    assert seen.peak == np.abs(everything).max() <= seen.top
    beyond = int((np.abs(everything) > seen.top / 4).sum())
    # a value on a boundary between bins may round to either side of it
    assert abs(int(seen.counts[BINS // 4 :].sum()) - beyond) <= 1


def test_the_percentile_is_numpys_to_one_bin() -> None:
    values = RNG.standard_normal(200_000)
    seen = histogram(values)
    expected = np.percentile(np.abs(values), 99.99)
    assert peak("percentile", seen, 127) == pytest.approx(expected, abs=seen.top / BINS)


def error(values: np.ndarray, limit: float, levels: int) -> float:
    step = limit / levels
    return float(np.mean((values - np.clip(np.rint(values / step), -levels, levels) * step) ** 2))


@pytest.mark.parametrize("levels", [127, 255])
def test_mse_finds_the_range_with_the_least_error_of_the_values_themselves(levels: int) -> None:
    values = RNG.laplace(size=100_000)
    found = peak("mse", histogram(values), levels)
    tried = [error(values, limit, levels) for limit in np.linspace(0.1, 1, 60) * np.abs(values).max()]
    # between two of 128 candidates the error of the best may be missed by little
    assert error(values, found, levels) <= min(tried) * 1.01


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_a_lone_outlier_does_not_set_the_range(method: str) -> None:
    values = np.append(RNG.standard_normal(1_000_000), 60.0)
    assert peak(method, histogram(values), 127) < 20
    assert error(values[:-1], peak(method, histogram(values), 127), 127) < error(values[:-1], 60.0, 127) / 4


def test_entropy_keeps_the_whole_of_an_even_distribution() -> None:
    assert peak("entropy", histogram(RNG.uniform(-1, 1, 200_000)), 127) > 0.95


def test_zeros_do_not_change_any_range() -> None:
    values = RNG.standard_normal(10_000)
    padded = np.concatenate([values, np.zeros(1_000_000)])
    assert all(peak(m, histogram(values), 127) == peak(m, histogram(padded), 127) for m in METHODS)


def test_entropy_does_not_clip_the_white_of_images() -> None:
    gray = np.concatenate([RNG.uniform(0, 1, 60_000), np.full(25_000, 1.0), np.full(15_000, 0.45)])
    assert peak("entropy", histogram(gray), 127) > 0.97


@pytest.mark.torch
@pytest.mark.onnxruntime
@pytest.mark.slow
def test_every_method_keeps_a_trained_networks_signal() -> None:
    from edgeattn.export import export

    family, config = models.find("cbam_digits")
    module = family.build(**config.options).eval()
    weights.load(module, config.weights)
    program = export(family.source(module))
    specs = graphs.program_inputs(program)
    (case,) = calib.cases("digits", specs, 4)

    def logits(program):
        return backends.calibrator(program)["main"].run(case.feeds)["logits"]

    expected = logits(program)
    for method in METHODS:
        settings = Settings(ranges=method)
        made = quantize(program, "int8-static", backends.calibrator, calib.cases("digits", specs, 64), settings)
        # minmax keeps about 37 dB, entropy the least, 33; 30 is what an INT8 engine has to pass with
        assert 20 * np.log10(np.linalg.norm(expected) / np.linalg.norm(expected - logits(made))) > 30, method
