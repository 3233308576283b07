"""The user's task of the examples: its data is what it says, and its score is F1 of boxed and named digits."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from edgeattn import tasks, theirs
from tests.conftest import ROOT

PLACE = str(ROOT / "examples" / "your_task.py")


def perfect(targets: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs of a head that knows the answer."""
    boxes, logits = np.zeros((len(targets), 4, 20, 20)), np.full((len(targets), 10, 20, 20), -5.0)
    for i, objects in enumerate(targets):
        for label, left, top, width, height in objects:
            x, y = (left + width / 2) / 4, (top + height / 2) / 4
            row, column = int(y), int(x)
            logits[i, int(label), row, column] = 5
            boxes[i, :, row, column] = x - column - 0.5, y - row - 0.5, np.log(width / 4), np.log(height / 4)
    return {"output_0": boxes, "output_1": logits}


def test_a_page_holds_eight_digits_inside_their_boxes() -> None:
    pixels, objects = theirs.load(f"{PLACE}:page", "function")("test", 3)
    assert objects.shape == (8, 5)
    covered = np.zeros_like(pixels)
    for _, left, top, width, height in objects.astype(int):
        covered[top : top + height, left : left + width] = 1
    assert pixels.max() == 1
    assert (pixels[covered == 0] == 0).all()


def test_the_features_hold_every_pixel() -> None:
    pixels, _ = theirs.load(f"{PLACE}:page", "function")("test", 0)
    maps = theirs.load(f"{PLACE}:features", "function")(pixels[None])
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps[0, :16].reshape(4, 4, 20, 20).transpose(2, 0, 3, 1).reshape(80, 80), pixels)


def test_a_perfect_head_scores_one_and_each_kind_of_mistake_costs() -> None:
    task = tasks.find(PLACE)
    targets = next(task.test(4, 4)).targets
    right = perfect(targets)
    np.testing.assert_allclose(task.score(right, targets), 1)
    missed = {**right, "output_1": right["output_1"] * 0 - 5}
    np.testing.assert_array_equal(task.score(missed, targets), 0)
    misnamed = {**right, "output_1": np.roll(right["output_1"], 1, axis=1)}
    np.testing.assert_array_equal(task.score(misnamed, targets), 0)
    tiny = {**right, "output_0": right["output_0"] - np.array([0, 0, 1, 1]).reshape(1, 4, 1, 1)}  # e times smaller
    np.testing.assert_array_equal(task.score(tiny, targets), 0)
    doubled = {**right, "output_1": np.maximum(right["output_1"], np.roll(right["output_1"], 1, axis=2))}
    np.testing.assert_allclose(task.score(doubled, targets), 2 * 8 / (16 + 8))
