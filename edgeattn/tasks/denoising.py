"""denoising: clean photographs of Gaussian noise, judged by PSNR (and SSIM) against the clean pixels.

    noisy = clip(clean + σ · n, 0, 1)       n ~ N(0, 1) for each pixel and colour, σ = 25/255, colours in [0, 1]

36 crops of a 64-pixel grid over the held-out parts are judged, each with its own noise, drawn once from a fixed seed;
training and calibration draw from the other part of the same two photographs, so the figure says how well a network
fits pictures like these, not photographs at large. The noisy crops have 20.98 dB and SSIM 0.392; what a network is up
against is ``blurred``, a Gaussian blur whose width was tuned on training crops: 27.46 dB, SSIM 0.770.

Source: Zhang, Zuo, Chen, Meng, Zhang, "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising",
IEEE Transactions on Image Processing 26(7), 2017, section IV (σ = 25 of 255 is one of its three levels).
Deviations: noisy pixels are clipped to [0, 1], because a camera's file holds no others; they are not rounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.tasks import PSNR, Batch, Task
from edgeattn.tasks._photographs import held_out_crops, training_crops
from edgeattn.tasks._quality import OUTPUT, gaussian, likeness, score

if TYPE_CHECKING:
    from edgeattn.program import Array

SIGMA = 25 / 255
SIDE = 64
BLUR = 1.1  # pixels: best PSNR on training crops among multiples of 0.05
_DEFAULT = 64
_TRAIN_SEED, _TEST_SEED = 0, 1


def noisy(clean: Array, random: np.random.RandomState) -> Array:
    """``clean`` ``(B, 3, H, W)`` with noise, float32 in [0, 1]."""
    noise = SIGMA * random.standard_normal(clean.shape)
    return np.clip(clean + noise, 0.0, 1.0).astype(np.float32)


def blurred(images: Array, sigma: float = BLUR) -> Array:
    """The baseline: a Gaussian blur of ``sigma`` pixels, renormalised at the border; shape kept, float32."""
    rows, columns = (gaussian(np.arange(n)[:, None] - np.arange(n), sigma) for n in images.shape[-2:])
    return (rows @ images.astype(np.float64) @ columns.T).astype(np.float32)


def _batches(clean: Array, seed: int, batch: int) -> Iterator[Batch]:
    images = noisy(clean, np.random.RandomState(seed))
    for start in range(0, len(clean), batch):
        rows = slice(start, start + batch)
        yield Batch({"image": images[rows]}, clean[rows])


def _train(samples: int | None, batch: int) -> Iterator[Batch]:
    return _batches(training_crops(samples or _DEFAULT, SIDE, np.random.RandomState(_TRAIN_SEED)), _TRAIN_SEED, batch)


def _test(samples: int | None, batch: int) -> Iterator[Batch]:
    return _batches(held_out_crops(SIDE)[:samples], _TEST_SEED, batch)


def assets() -> Mapping[str, bytes]:
    """How a picture must be prepared, and what comes back."""
    shape = ["batch", 3, "height", "width"]
    facts = {
        "input": {"name": "image", "dtype": "float32", "layout": "NCHW", "shape": shape},
        "output": {"name": OUTPUT, "shape": shape, "range": [0, 1], "clip": True},
        "colours": "RGB",
        "formula": "pixel / 255",
        "trained_on": f"Gaussian noise of standard deviation {SIGMA:.4f} on every colour, clipped to [0, 1]",
    }
    return {"preprocessing.json": json.dumps(facts, indent=1).encode()}


TASK = Task(
    name="denoising",
    metric=PSNR,
    train=_train,
    test=_test,
    score=score,
    assets=assets,
    about="two photographs under Gaussian noise (sigma 25 of 255), 36 held-out crops: PSNR and SSIM",
    predict=lambda outputs, batch: [],
    also={"ssim": likeness},
)
