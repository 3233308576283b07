"""The one split of the two photographs, and the crops drawn from it."""

import sys

import numpy as np
import pytest

from edgeattn.errors import MissingPackage
from edgeattn.tasks import _photographs as photographs


@pytest.fixture
def numbered(monkeypatch):
    """Two "photographs" in which every pixel says where it is: row, column and picture."""
    rows, columns = np.mgrid[0:427, 0:640]
    photos = tuple(np.stack([rows % 256, columns % 256, np.full_like(rows, i)], -1).astype(np.uint8) for i in (0, 1))
    # 640 columns do not fit into a byte: columns 256 and above are told by the third colour
    for i, photo in enumerate(photos):
        photo[..., 2] = 10 * i + columns // 256
    monkeypatch.setattr(photographs, "_load", lambda: photos)


def places(images):
    """Every pixel's (picture, row mod 256, column)."""
    pixels = np.rint(images * 255).astype(int).transpose(0, 2, 3, 1).reshape(-1, 3)
    return {(third // 10, row, column + 256 * (third % 10)) for row, column, third in np.unique(pixels, axis=0)}


@pytest.mark.usefixtures("numbered")
def test_no_column_of_a_photograph_is_in_both_parts():
    held_out = {(photo, column) for photo, _, column in places(photographs.held_out_crops(64))}
    training = {
        (photo, column) for photo, _, column in places(photographs.training_crops(300, 64, np.random.RandomState(0)))
    }
    assert {photo for photo, _ in held_out} == {photo for photo, _ in training} == {0, 1}
    assert max(column for _, column in held_out) < photographs.HELD_OUT <= min(column for _, column in training)


def test_the_parts_together_are_the_photographs():
    for held_out, training in zip(photographs.parts(held_out=True), photographs.parts(held_out=False), strict=True):
        assert (held_out.shape, training.shape) == ((427, 224, 3), (427, 416, 3))


@pytest.mark.usefixtures("numbered")
def test_held_out_crops_tile_the_part_once_and_come_shuffled():
    crops = photographs.held_out_crops(100)
    corners = [(int(c[2, 0, 0] * 255.5) // 10, c[0, 0, 0], c[1, 0, 0]) for c in crops]
    assert len(crops) == 2 * 4 * 2
    assert len(set(corners)) == len(crops)
    assert corners != sorted(corners)
    assert np.array_equal(crops, photographs.held_out_crops(100))


@pytest.mark.usefixtures("numbered")
def test_half_of_the_training_crops_are_mirrored_and_the_seed_repeats_them():
    crops = photographs.training_crops(400, 16, np.random.RandomState(3))
    steps = np.median(np.diff(crops[:, 1] * 255, axis=2), axis=(1, 2))
    assert set(np.rint(steps)) == {1.0, -1.0}
    assert 160 < (steps < 0).sum() < 240  # four standard deviations about one half
    assert np.array_equal(crops, photographs.training_crops(400, 16, np.random.RandomState(3)))


def test_detail_is_the_mean_step_between_neighbours():
    ramp = np.tile(np.arange(8.0), (1, 3, 8, 1))  # steps of 1 to the right, of 0 downwards
    assert photographs.detail(ramp).tolist() == [0.5]
    assert photographs.detail(np.ones((2, 3, 4, 4))).tolist() == [0, 0]


def test_crops_without_detail_can_be_left_out_of_both_parts():
    chosen = photographs.held_out_crops(40, photographs.DETAIL)
    everything = photographs.held_out_crops(40)
    assert 0 < len(chosen) < len(everything)
    drawn = photographs.training_crops(50, 40, np.random.RandomState(0), photographs.DETAIL)
    assert len(drawn) == 50
    assert min(photographs.detail(chosen).min(), photographs.detail(drawn).min()) >= photographs.DETAIL


def test_images_are_float32_with_the_colours_first_and_keep_their_levels():
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    images = photographs.as_images(pixels)
    assert (images.shape, images.dtype) == ((2, 3, 3, 4), np.float32)
    assert np.array_equal(np.rint(images * 255).astype(np.uint8).transpose(0, 2, 3, 1), pixels)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    photographs._load.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingPackage, match=r"'scikit-learn' is not installed .*pip install 'edgeattn\[export\]'"):
        photographs.parts(held_out=True)
