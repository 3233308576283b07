import json

import numpy as np
import pytest

from edgeattn.tasks import _quality as quality
from edgeattn.tasks import superresolution as task
from edgeattn.tasks._photographs import held_out_crops

# Keys' kernel (a = −1/2) at 1/4, 3/4, 5/4, 7/4 from the centre.
AT_QUARTERS = {0.25: 0.8671875, 0.75: 0.2265625, 1.25: -0.0703125, 1.75: -0.0234375}


def keys(t):
    t = abs(t)
    if t <= 1:
        return 3 / 2 * t**3 - 5 / 2 * t**2 + 1
    return -1 / 2 * t**3 + 5 / 2 * t**2 - 4 * t + 2 if t < 2 else 0.0


def slow_resize(line, target):
    """One line of pixels, a tap at a time, in the words of the definition."""
    factor = len(line) / target
    stretch = max(1.0, factor)
    result = []
    for i in range(target):
        centre = (i + 0.5) * factor - 0.5
        weights = {j: keys((j - centre) / stretch) for j in range(-20, len(line) + 20)}
        total = sum(weights.values())
        result.append(sum(w * line[min(max(j, 0), len(line) - 1)] for j, w in weights.items()) / total)
    return result


@pytest.mark.parametrize(("source", "target"), [(16, 8), (8, 16), (5, 10), (40, 20), (7, 7), (9, 3)])
def test_the_matrix_resizes_as_the_definition_does(source, target):
    line = np.random.default_rng(source).random(source)
    expected = slow_resize(line.tolist(), target)
    np.testing.assert_allclose(task.bicubic(source, target) @ line, expected, rtol=0, atol=1e-12)  # float64


@pytest.mark.parametrize(("source", "target"), [(16, 8), (8, 16), (1, 2), (2, 1), (3, 6)])
def test_every_row_sums_to_one_so_that_a_flat_picture_stays_flat(source, target):
    np.testing.assert_allclose(task.bicubic(source, target).sum(1), 1, rtol=0, atol=1e-12)  # float64


@pytest.mark.parametrize(("source", "target", "border"), [(32, 16, 2), (16, 32, 4)])
def test_a_ramp_stays_a_ramp_away_from_the_border(source, target, border):
    pixel_centres = (np.arange(source) + 0.5) / source
    expected = (np.arange(target) + 0.5) / target
    found = task.bicubic(source, target) @ pixel_centres
    inside = slice(border, -border)
    np.testing.assert_allclose(found[inside], expected[inside], rtol=0, atol=1e-12)  # float64


def test_the_weights_are_the_known_ones():
    k = AT_QUARTERS
    enlarging = task.bicubic(8, 16)[8, 2:6]  # centre 3.75
    np.testing.assert_allclose(enlarging, [k[1.75], k[0.75], k[0.25], k[1.25]], rtol=0, atol=1e-15)  # float64
    shrinking = task.bicubic(16, 8)[4, 5:13]  # centre 8.5, the kernel stretched to twice its width
    half = [k[1.75], k[1.25], k[0.75], k[0.25]]
    np.testing.assert_allclose(shrinking, np.array([*half, *half[::-1]]) / 2, rtol=0, atol=1e-15)  # float64


def test_shrinking_is_antialiased():
    stripes = np.arange(64) % 2  # what no picture of half the size can show
    inside = (task.bicubic(64, 32) @ stripes)[2:-2]
    # plain sampling at every second pixel would give 0 or 1 throughout; here the stripes all but vanish
    np.testing.assert_allclose(inside, 0.5, rtol=0, atol=1e-12)


def test_a_batch_is_the_held_out_crops_and_their_half_size():
    (batch,) = task.TASK.test(None, 100)
    low = batch.feeds["image"]
    assert (low.shape, low.dtype, batch.targets.shape) == ((42, 3, 20, 20), np.float32, (42, 3, 40, 40))
    by_hand = np.array([slow_resize(column, 20) for column in batch.targets[0, 0].astype(float).T]).T
    by_hand = np.array([slow_resize(row, 20) for row in by_hand])
    np.testing.assert_allclose(low[0, 0], by_hand, rtol=0, atol=1e-6)  # float64 rounded to float32 once


def test_samples_of_a_batch_do_not_depend_on_its_size():
    whole = next(task.TASK.test(None, 100))
    parts = list(task.TASK.test(10, 4))
    assert np.array_equal(np.concatenate([p.feeds["image"] for p in parts]), whole.feeds["image"][:10])


def test_calibration_pictures_are_no_test_pictures():
    held_out = held_out_crops(task.SIDE)
    train = next(task.TASK.train(64, 64)).targets
    assert not any(np.array_equal(a, b) for a in train for b in held_out)


def test_bicubic_interpolation_reaches_the_figures_that_the_documents_state():
    batch = next(task.TASK.test(None, 100))
    baseline = task.upscaled(batch.feeds["image"])
    assert baseline.dtype == np.float32
    assert quality.psnr(baseline, batch.targets).mean() == pytest.approx(24.80, abs=0.005)
    assert quality.ssim(baseline, batch.targets).mean() == pytest.approx(0.724, abs=0.0005)


def test_scores_are_decibels_with_ssim_beside_and_nothing_to_agree_on():
    batch = next(task.TASK.test(2, 2))
    outputs = {"restored": task.upscaled(batch.feeds["image"])}
    assert task.TASK.metric.unit == "dB"
    assert np.array_equal(task.TASK.score(outputs, batch.targets), quality.psnr(outputs["restored"], batch.targets))
    assert np.array_equal(
        task.TASK.also["ssim"](outputs, batch.targets), quality.ssim(outputs["restored"], batch.targets)
    )
    assert task.TASK.predict(outputs, 2) == []


def test_the_assets_say_how_a_picture_is_prepared():
    facts = json.loads(task.assets()["preprocessing.json"])
    assert facts["input"]["name"] == "image"
    assert facts["output"]["name"] == "restored"
    assert facts["formula"] == "pixel / 255"
