"""Handwritten digits: scikit-learn's 1,797 scans of 8×8, scaled up to 32×32, ten classes, accuracy.

An image x in 0…16 becomes (U (x/16) Uᵀ − mean) / std, where U (32, 8) interpolates linearly between pixel centres and
repeats the border: the same arithmetic everywhere, in numpy alone. The split is fixed and stratified: 1,347 to train,
450 to test.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import MissingPackage
from edgeattn.tasks import ACCURACY, Batch, Task

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays

SIZE, SOURCE_SIZE, TOP = 32, 8, 16.0
MEAN, STD = 0.3, 0.35  # of the scaled training images, rounded; part of the model's contract
SPLIT_SEED = 20
_cache: dict[str, tuple[Array, Array]] = {}


def preprocess(scans: Array) -> Array:
    """Scans ``(N, 8, 8)`` in 0…16 to normalised images ``(N, 1, 32, 32)`` float32."""
    enlarge = interpolation(SOURCE_SIZE, SIZE)
    images = enlarge @ (np.asarray(scans, np.float64) / TOP) @ enlarge.T
    return ((images - MEAN) / STD).astype(np.float32)[:, None]


def interpolation(source: int, target: int) -> Array:
    """U ``(target, source)`` float64: linear interpolation between pixel centres, the border repeated."""
    positions = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    return np.maximum(0.0, 1.0 - np.abs(positions[:, None] - np.arange(source)))


def split(labels: Array) -> tuple[Array, Array]:
    """Indices of the training and the test samples, each in a fixed shuffled order.

    Every fourth sample of the shuffled, class-sorted list is held out. ``RandomState`` is used because its stream is
    frozen for all numpy versions.
    """
    rng = np.random.RandomState(SPLIT_SEED)
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    held_out = np.arange(len(order)) % 4 == 0
    return rng.permutation(order[~held_out]), rng.permutation(order[held_out])


def load(part: str) -> tuple[Array, Array]:
    """Images ``(N, 1, 32, 32)`` float32 and labels ``(N,)`` int64 of ``train`` or ``test``.

    Raises:
        MissingPackage: scikit-learn, which carries the data, is not installed.
    """
    if not _cache:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise MissingPackage("scikit-learn", "export", why="it carries the digits") from None
        data = load_digits()
        images, labels = preprocess(data.images), np.asarray(data.target, np.int64)
        for name, index in zip(("train", "test"), split(labels), strict=True):
            _cache[name] = images[index], labels[index]
    return _cache[part]


def _batches(part: str, samples: int | None, batch: int) -> Iterator[Batch]:
    images, labels = load(part)
    count = len(labels) if samples is None else min(samples, len(labels))
    for start in range(0, count, batch):
        rows = slice(start, min(start + batch, count))
        yield Batch({"image": images[rows]}, labels[rows])


def score(outputs: Arrays, targets: Array) -> Array:
    """1.0 where the largest of ``logits`` ``(B, 10)`` is the target, else 0.0; ``(B,)`` float64."""
    right: Array = outputs["logits"].argmax(-1) == targets
    return right.astype(np.float64)


def assets() -> Mapping[str, bytes]:
    """Labels, and how an image must be prepared."""
    facts = {
        "input": {"name": "image", "dtype": "float32", "layout": "NCHW", "shape": ["batch", 1, SIZE, SIZE]},
        "source": {"shape": [SOURCE_SIZE, SOURCE_SIZE], "range": [0, TOP], "ink": "high"},
        "resize": "linear between pixel centres, border repeated",
        "mean": MEAN,
        "std": STD,
        "formula": "(U @ (x / 16) @ U.T - mean) / std",
    }
    return {
        "labels.json": json.dumps([str(d) for d in range(10)]).encode(),
        "preprocessing.json": json.dumps(facts, indent=1).encode(),
    }


TASK = Task(
    name="digits",
    metric=ACCURACY,
    train=lambda samples, batch: _batches("train", samples, batch),
    test=lambda samples, batch: _batches("test", samples, batch),
    score=score,
    assets=assets,
    about="1,797 handwritten digits at 32×32 (1,347 train, 450 test): accuracy",
)
