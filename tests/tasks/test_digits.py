import json
import sys

import numpy as np
import pytest

from edgeattn.errors import MissingPackage
from edgeattn.tasks import digits

FIRST_TEST_INDICES = [753, 389, 556, 163, 589]


def test_the_split_is_fixed_disjoint_and_stratified():
    labels = np.repeat(np.arange(10), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    train, test = digits.split(labels)
    assert (len(train), len(test)) == (1347, 450)
    assert sorted([*train, *test]) == list(range(1797))
    assert set(np.bincount(labels[test])) <= {44, 45, 46}
    # another numpy must not move samples between the splits
    assert test[:5].tolist() == FIRST_TEST_INDICES


def test_batches_come_in_a_fixed_order_and_cover_the_split_once():
    batches = list(digits.TASK.test(None, 100))
    assert [len(batch.targets) for batch in batches] == [100, 100, 100, 100, 50]
    again = list(digits.TASK.test(100, 30))
    assert [len(batch.targets) for batch in again] == [30, 30, 30, 10]
    joined = np.concatenate([batch.feeds["image"] for batch in again])
    assert np.array_equal(joined, batches[0].feeds["image"])


def test_images_are_normalised_float32_of_32_by_32():
    batch = next(digits.TASK.train(None, 1347))
    image = batch.feeds["image"]
    assert (image.shape, image.dtype, batch.targets.dtype) == ((1347, 1, 32, 32), np.float32, np.int64)
    assert abs(image.mean()) < 0.1
    assert 0.8 < image.std() < 1.2


def test_scaling_up_keeps_a_flat_image_flat_and_a_ramp_straight():
    flat = digits.preprocess(np.full((1, 8, 8), 8.0))
    np.testing.assert_allclose(flat, (0.5 - digits.MEAN) / digits.STD, rtol=1e-6)  # float32 output
    ramp = digits.interpolation(8, 32) @ np.arange(8.0)
    np.testing.assert_allclose(np.diff(ramp)[2:-2], 0.25, rtol=1e-12)  # float64


def test_every_row_of_the_interpolation_sums_to_one():
    np.testing.assert_allclose(digits.interpolation(8, 32).sum(1), 1, rtol=1e-12)  # float64


def test_scores_one_where_the_largest_logit_is_the_target():
    logits = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    assert digits.score({"logits": logits}, np.array([1, 1])).tolist() == [1.0, 0.0]


def test_the_assets_suffice_to_prepare_an_image_without_this_package():
    assets = digits.assets()
    facts = json.loads(assets["preprocessing.json"])
    assert json.loads(assets["labels.json"]) == [str(d) for d in range(10)]
    scan = np.random.default_rng(0).integers(0, 17, (1, 8, 8))
    centres = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    rows = np.stack([np.interp(centres, np.arange(8), column) for column in scan[0].T / facts["source"]["range"][1]], 1)
    image = np.stack([np.interp(centres, np.arange(8), row) for row in rows])
    # float64 rounded to float32 once
    np.testing.assert_allclose(digits.preprocess(scan)[0, 0], (image - facts["mean"]) / facts["std"], rtol=0, atol=1e-6)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(digits, "_cache", {})
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingPackage, match=r"'scikit-learn' is not installed .*pip install 'edgeattn\[export\]'"):
        next(digits.TASK.test(1, 1))
