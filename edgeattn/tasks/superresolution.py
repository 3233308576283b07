"""superresolution: see the photographs at twice the resolution, judged by PSNR (and SSIM) against the real pixels.

    low = D · high · Dᵀ per colour          high (40, 40), low (20, 20), D (20, 40): antialiased bicubic, factor 2
    D[i, j] ∝ k((j − u) / 2), u = 2 (i + ½) − ½
    k(t) = 1.5|t|³ − 2.5|t|² + 1 for |t| ≤ 1, −0.5|t|³ + 2.5|t|² − 4|t| + 2 for |t| < 2

Colours are in [0, 1] throughout. Judged are the 42 crops with detail (``_photographs.DETAIL``) of a 40-pixel grid over
the held-out parts: on sky and blurred leaves bicubic interpolation is past 50 dB and nothing is left to restore.
Training and calibration draw from the other part of the same two photographs, so the figure says how well a network
fits pictures like these, not photographs at large. What a network is up against is ``upscaled``, bicubic interpolation
by 2: 24.80 dB, SSIM 0.724.

Source: R. Keys, "Cubic Convolution Interpolation for Digital Image Processing", IEEE Transactions on Acoustics, Speech,
and Signal Processing 29(6), 1981, equation 15 (a = −1/2). Stretching k by the factor is what benchmarks of
super-resolution do when they make low-resolution images.
Deviations: beyond the border its pixels are repeated, and ``low`` is not rounded to 8 bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.tasks import PSNR, Batch, Task
from edgeattn.tasks._photographs import DETAIL, held_out_crops, training_crops
from edgeattn.tasks._quality import OUTPUT, likeness, score

if TYPE_CHECKING:
    from edgeattn.program import Array

FACTOR = 2
SIDE = 40  # of a high-resolution crop
_DEFAULT = 64
_SEED = 0


def bicubic(source: int, target: int) -> Array:
    """The ``(target, source)`` float64 matrix that resizes a column of pixels; antialiased when it shrinks."""
    stretch = max(1.0, source / target)
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    reach = np.arange(-np.ceil(2 * stretch), np.ceil(2 * stretch) + 1)
    taps = np.floor(centres)[:, None] + reach
    weights = _keys((taps - centres[:, None]) / stretch)
    weights /= weights.sum(1, keepdims=True)
    matrix = np.zeros((target, source))
    rows = np.repeat(np.arange(target), len(reach))
    np.add.at(matrix, (rows, np.clip(taps, 0, source - 1).astype(int).ravel()), weights.ravel())
    return matrix


def resized(images: Array, factor: float) -> Array:
    """Bicubic resize of ``(B, C, H, W)`` by ``factor``, float32."""
    rows, columns = (bicubic(size, round(size * factor)) for size in images.shape[-2:])
    return (rows @ images.astype(np.float64) @ columns.T).astype(np.float32)


def upscaled(low: Array) -> Array:
    """The baseline: bicubic interpolation by 2, ``(B, C, h, w)`` to ``(B, C, 2h, 2w)``."""
    return resized(low, FACTOR)


def downscaled(high: Array) -> Array:
    """What the network is given: ``(B, C, 2h, 2w)`` to ``(B, C, h, w)``."""
    return resized(high, 1 / FACTOR)


def _keys(t: Array) -> Array:
    t = np.abs(t)
    near, far = (1.5 * t - 2.5) * t**2 + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    kernel: Array = np.where(t <= 1, near, np.where(t < 2, far, 0.0))
    return kernel


def _batches(high: Array, batch: int) -> Iterator[Batch]:
    low = downscaled(high)
    for start in range(0, len(high), batch):
        rows = slice(start, start + batch)
        yield Batch({"image": low[rows]}, high[rows])


def _train(samples: int | None, batch: int) -> Iterator[Batch]:
    return _batches(training_crops(samples or _DEFAULT, SIDE, np.random.RandomState(_SEED), DETAIL), batch)


def _test(samples: int | None, batch: int) -> Iterator[Batch]:
    return _batches(held_out_crops(SIDE, DETAIL)[:samples], batch)


def assets() -> Mapping[str, bytes]:
    """How a picture must be prepared, and what comes back."""
    facts = {
        "input": {"name": "image", "dtype": "float32", "layout": "NCHW", "shape": ["batch", 3, "height", "width"]},
        "output": {"name": OUTPUT, "shape": ["batch", 3, "2 * height", "2 * width"], "range": [0, 1], "clip": True},
        "colours": "RGB",
        "formula": "pixel / 255",
        "trained_on": "pictures shrunk by 2 with antialiased bicubic (Keys, a = -0.5)",
    }
    return {"preprocessing.json": json.dumps(facts, indent=1).encode()}


TASK = Task(
    name="superresolution",
    metric=PSNR,
    train=_train,
    test=_test,
    score=score,
    assets=assets,
    about="two photographs at twice the resolution, 42 held-out crops: PSNR and SSIM",
    predict=lambda outputs, batch: [],
    also={"ssim": likeness},
)
