"""PSNR and SSIM against the papers' equations, written out pixel by pixel, and cases whose answer is known."""

import math

import numpy as np
import pytest

from edgeattn.tasks import _quality as quality


def pictures(seed=0, size=(20, 17), noise=0.1):
    rng = np.random.default_rng(seed)
    truth = rng.random((2, 3, *size))
    return np.clip(truth + noise * rng.standard_normal(truth.shape), 0, 1), truth


def slow_ssim(x, y):
    """One luminance pair, a window at a time."""
    taps = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    window = np.outer(taps, taps) / sum(taps) ** 2
    found = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            cov = (window * (a - ma) * (b - mb)).sum()
            found.append((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(found)


def test_ssim_is_that_of_the_paper():
    images, truth = pictures()
    weights = np.array([0.299, 0.587, 0.114]).reshape(3, 1, 1)
    expected = [slow_ssim((x * weights).sum(0), (y * weights).sum(0)) for x, y in zip(images, truth, strict=True)]
    np.testing.assert_allclose(quality.ssim(images, truth), expected, rtol=1e-9)  # float64, E[x²] − E[x]² cancels


def test_psnr_is_that_of_the_definition():
    images, truth = pictures()
    expected = [10 * math.log10(1 / ((x - y) ** 2).mean()) for x, y in zip(images, truth, strict=True)]
    np.testing.assert_allclose(quality.psnr(images, truth), expected, rtol=1e-12)  # float64


@pytest.mark.parametrize(("error", "decibels"), [(0.1, 20.0), (0.01, 40.0), (1 / 255, 48.130803608679344)])
def test_an_error_of_one_size_everywhere_has_a_known_psnr(error, decibels):
    truth = np.full((1, 3, 12, 12), 0.5)
    assert quality.psnr(truth + error, truth)[0] == pytest.approx(decibels, abs=1e-9)  # float64


def test_equal_pictures_have_the_best_figures_there_are():
    _, truth = pictures()
    assert quality.psnr(truth, truth).tolist() == [quality.BEST_PSNR] * 2
    np.testing.assert_allclose(quality.ssim(truth, truth), 1, rtol=1e-12)  # float64


def test_two_flat_pictures_differ_in_luminance_alone():
    dark, light = np.full((1, 3, 11, 11), 0.2), np.full((1, 3, 11, 11), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert quality.ssim(dark, light)[0] == pytest.approx(expected, rel=1e-9)  # float64


def test_a_negative_picture_is_unlike():
    _, truth = pictures()
    assert (quality.ssim(1 - truth, truth) < 0).all()


def test_values_past_black_and_white_count_as_black_and_white():
    truth = np.concatenate([np.zeros((1, 3, 12, 12)), np.ones((1, 3, 12, 12))])
    assert quality.psnr(3 * (truth - 0.5), truth).tolist() == [quality.BEST_PSNR] * 2


def test_a_picture_with_nan_has_no_score():
    _, truth = pictures()
    broken = truth.copy()
    broken[0, 0, 0, 0] = np.nan
    assert np.isnan(quality.psnr(broken, truth)).tolist() == [True, False]


def test_scores_read_the_restored_output_one_figure_an_image():
    images, truth = pictures()
    outputs = {"restored": images.astype(np.float32)}
    assert quality.score(outputs, truth).shape == quality.likeness(outputs, truth).shape == (2,)
