"""The two photographs that scikit-learn ships (china.jpg, flower.jpg, RGB, 427 high and 640 wide) and their one split.

The leftmost 224 columns of each are held out, the rest is for training and calibration: no pixel is in both. Both parts
of both photographs then hold something to see (trees and half a pagoda; leaves and some petals); the rightmost columns
of the flower are a blurred background.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import MissingPackage

if TYPE_CHECKING:
    from edgeattn.program import Array

HELD_OUT = 224
DETAIL = 2 / 255  # a crop whose neighbouring pixels differ by less on average is sky or blur
_ORDER_SEED = 7


def parts(*, held_out: bool) -> list[Array]:
    """The held-out part ``(427, 224, 3)`` or the training part ``(427, 416, 3)`` of each photograph, uint8.

    Raises:
        MissingPackage: scikit-learn, which carries the photographs, is not installed.
    """
    return [photo[:, :HELD_OUT] if held_out else photo[:, HELD_OUT:] for photo in _load()]


def held_out_crops(side: int, least_detail: float = 0.0) -> Array:
    """The crops of a grid over the held-out parts, in a fixed shuffled order.

    Args:
        side: of a crop, in pixels.
        least_detail: leave out crops with less (see ``detail``).

    Returns:
        ``(N, 3, side, side)`` float32 in [0, 1].
    """
    crops = [
        photo[y : y + side, x : x + side]
        for photo in parts(held_out=True)
        for y in range(0, photo.shape[0] - side + 1, side)
        for x in range(0, photo.shape[1] - side + 1, side)
    ]
    order = np.random.RandomState(_ORDER_SEED).permutation(len(crops))
    images = as_images(np.stack(crops)[order])
    return images[detail(images) >= least_detail]


def training_crops(count: int, side: int, random: np.random.RandomState, least_detail: float = 0.0) -> Array:
    """Crops anywhere in the training parts, half of them mirrored: ``(count, 3, side, side)`` float32 in [0, 1]."""
    kept = np.empty((0, 3, side, side), np.float32)
    while len(kept) < count:
        drawn = _training_crops(count, side, random)
        kept = np.concatenate([kept, drawn[detail(drawn) >= least_detail]])
    return kept[:count]


def detail(images: Array) -> Array:
    """Mean difference between neighbouring pixels of each image: ``(N, 3, H, W)`` to ``(N,)``."""
    down, right = (np.abs(np.diff(images, axis=axis)).mean((1, 2, 3)) for axis in (2, 3))
    found: Array = (down + right) / 2
    return found


def _training_crops(count: int, side: int, random: np.random.RandomState) -> Array:
    photos = parts(held_out=False)
    crops = np.empty((count, side, side, 3), np.uint8)
    for i in range(count):
        photo = photos[random.randint(len(photos))]
        y, x = (random.randint(size - side + 1) for size in photo.shape[:2])
        crop = photo[y : y + side, x : x + side]
        crops[i] = crop[:, ::-1] if random.randint(2) else crop
    return as_images(crops)


def as_images(pixels: Array) -> Array:
    """``(N, H, W, 3)`` uint8 to ``(N, 3, H, W)`` float32 in [0, 1]."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


@cache
def _load() -> tuple[Array, ...]:
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise MissingPackage("scikit-learn", "export", why="the photographs come with it") from None
    return tuple(load_sample_images().images)
