"""photos: crops of the two photographs that scikit-learn ships (china.jpg, flower.jpg), 224 x 224, ImageNet-normalised.

Real images for calibrating and judging ImageNet-sized networks whose weights are not trained here. There are no
labels, so there is no metric: parity on these crops is judged instead.
The split is that of ``_photographs.py``: the leftmost 224 columns of each are held out; no pixel is in both parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.tasks import UNSCORED, Batch, Task
from edgeattn.tasks._photographs import parts

if TYPE_CHECKING:
    from edgeattn.program import Array

SIZE = 224
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
_DEFAULT = 64


def crops(samples: int, *, held_out: bool) -> Array:
    """``(samples, 3, 224, 224)`` float32 crops, the same ones every time; flipped at random on the training side."""
    rng = np.random.default_rng(1 if held_out else 0)
    photos = parts(held_out=held_out)
    result = np.empty((samples, 3, SIZE, SIZE), np.float32)
    for i in range(samples):
        photo = photos[i % len(photos)]
        height, width = photo.shape[:2]
        x, y = rng.integers(0, width - SIZE + 1), rng.integers(0, height - SIZE + 1)
        crop = photo[y : y + SIZE, x : x + SIZE].astype(np.float32) / 255.0
        if not held_out and rng.random() < 0.5:
            crop = crop[:, ::-1]
        result[i] = ((crop - _MEAN) / _STD).transpose(2, 0, 1)
    return result


def _batches(samples: int | None, batch: int, *, held_out: bool) -> Iterator[Batch]:
    images = crops(samples or _DEFAULT, held_out=held_out)
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        yield Batch({"image": part}, np.zeros(len(part), np.int64))


TASK = Task(
    name="photos",
    metric=UNSCORED,
    train=lambda samples, batch: _batches(samples, batch, held_out=False),
    test=lambda samples, batch: _batches(samples, batch, held_out=True),
    score=lambda outputs, targets: np.zeros(len(targets)),
    assets=dict,
    about="224 x 224 crops of two photographs, without labels: calibration and parity of large networks",
)
