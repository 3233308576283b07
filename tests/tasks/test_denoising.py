import json
import math

import numpy as np
import pytest

from edgeattn.tasks import _quality as quality
from edgeattn.tasks import denoising as task
from edgeattn.tasks._photographs import held_out_crops


def test_noise_has_the_stated_size_and_repeats_by_seed():
    grey = np.full((4, 3, 64, 64), 0.5, np.float32)  # five sigma from black and white: nothing is clipped
    noise = task.noisy(grey, np.random.RandomState(0)) - grey
    # 49,152 draws know a standard deviation to 0.3 %, and its mean to sigma / 222
    assert noise.std() == pytest.approx(25 / 255, rel=0.015)
    assert abs(noise.mean()) < 4 * task.SIGMA / 222
    assert np.array_equal(noise, task.noisy(grey, np.random.RandomState(0)) - grey)


def test_noisy_pictures_stay_in_range():
    noisy = task.noisy(np.concatenate([np.zeros((1, 3, 32, 32)), np.ones((1, 3, 32, 32))]), np.random.RandomState(0))
    assert noisy.dtype == np.float32
    assert (noisy.min(), noisy.max()) == (0, 1)


def test_each_held_out_crop_has_noise_of_its_own_whatever_the_batch():
    (whole,) = task.TASK.test(None, 100)
    assert whole.targets.shape == whole.feeds["image"].shape == (36, 3, 64, 64)
    parts = list(task.TASK.test(10, 4))
    assert np.array_equal(np.concatenate([p.feeds["image"] for p in parts]), whole.feeds["image"][:10])
    first, second = (whole.feeds["image"] - whole.targets)[:2]
    assert not np.array_equal(first, second)


def test_targets_are_the_held_out_crops_and_calibration_never_sees_them():
    held_out = held_out_crops(task.SIDE)
    assert np.array_equal(next(task.TASK.test(None, 100)).targets, held_out)
    train = next(task.TASK.train(64, 64)).targets
    assert not any(np.array_equal(a, b) for a in train for b in held_out)


def test_the_blur_is_a_gaussian_one():
    point = np.zeros((1, 1, 15, 15), np.float32)
    point[0, 0, 7, 7] = 1
    taps = [math.exp(-((i - 7) ** 2) / (2 * 1.3**2)) for i in range(15)]
    expected = np.outer(taps, taps) / sum(taps) ** 2
    # float32 output; rows near the border are renormalised, by 1 − 1e-7 at this width for the middle ones
    np.testing.assert_allclose(task.blurred(point, 1.3)[0, 0, 5:10, 5:10], expected[5:10, 5:10], rtol=1e-4)
    flat = np.full((1, 3, 9, 7), 0.3, np.float32)
    np.testing.assert_allclose(task.blurred(flat), flat, rtol=1e-6)  # float32 output


def test_no_other_width_blurs_training_crops_better():
    batch = next(task.TASK.train(200, 200))

    def reached(sigma):
        return quality.psnr(task.blurred(batch.feeds["image"], sigma), batch.targets).mean()

    widths = np.arange(10, 41) / 20
    assert max(widths, key=reached) == pytest.approx(task.BLUR)


def test_noise_and_blur_reach_the_figures_that_the_documents_state():
    batch = next(task.TASK.test(None, 100))
    noisy, blurred = batch.feeds["image"], task.blurred(batch.feeds["image"])
    assert quality.psnr(noisy, batch.targets).mean() == pytest.approx(20.98, abs=0.005)
    assert quality.psnr(blurred, batch.targets).mean() == pytest.approx(27.46, abs=0.005)
    assert quality.ssim(noisy, batch.targets).mean() == pytest.approx(0.392, abs=0.0005)
    assert quality.ssim(blurred, batch.targets).mean() == pytest.approx(0.770, abs=0.0005)


def test_scores_are_decibels_with_ssim_beside_and_nothing_to_agree_on():
    batch = next(task.TASK.test(2, 2))
    outputs = {"restored": batch.feeds["image"]}
    assert task.TASK.metric.unit == "dB"
    assert np.array_equal(task.TASK.score(outputs, batch.targets), quality.psnr(outputs["restored"], batch.targets))
    assert np.array_equal(
        task.TASK.also["ssim"](outputs, batch.targets), quality.ssim(outputs["restored"], batch.targets)
    )
    assert task.TASK.predict(outputs, 2) == []


def test_the_assets_say_how_a_picture_is_prepared():
    facts = json.loads(task.assets()["preprocessing.json"])
    assert facts["input"]["shape"] == facts["output"]["shape"] == ["batch", 3, "height", "width"]
    assert f"{25 / 255:.4f}" in facts["trained_on"]
