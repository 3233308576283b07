"""How close a restored picture is to the true one: PSNR and SSIM, one figure an image.

    PSNR(x, y) = −10·log₁₀(mean (x − y)²)           over all pixels and colours, peak 1
    SSIM(x, y) = mean over windows of  (2 μx μy + C₁)(2 σxy + C₂) / ((μx² + μy² + C₁)(σx² + σy² + C₂))

μ, σ² and σxy are means, variances and the covariance under an 11×11 Gaussian window of σ = 1.5 that sums to 1 and lies
wholly inside the image; C₁ = 0.01², C₂ = 0.03²; x and y are luminances (0.299 R + 0.587 G + 0.114 B).

Source: Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity",
IEEE Transactions on Image Processing 13(4), 2004, equations 13–17.
Deviations: outputs are clipped to [0, 1] first, as a display would; PSNR stops at 100 dB, where pictures are equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays

OUTPUT = "restored"
BEST_PSNR = 100.0
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def psnr(images: Array, truth: Array) -> Array:
    """PSNR of each image in dB: two ``(B, 3, H, W)`` in [0, 1] to ``(B,)`` float64."""
    error = (_shown(images) - truth.astype(np.float64)) ** 2
    found: Array = -10.0 * np.log10(np.maximum(error.mean((1, 2, 3)), 10 ** (-BEST_PSNR / 10)))
    return found


def ssim(images: Array, truth: Array) -> Array:
    """SSIM of each image in [−1, 1]: two ``(B, 3, H, W)`` in [0, 1], at least 11×11, to ``(B,)`` float64."""
    x, y = (np.tensordot(colours, _LUMINANCE, (1, 0)) for colours in (_shown(images), truth.astype(np.float64)))
    rows, columns = (_windows(size) for size in x.shape[-2:])

    def mean(values: Array) -> Array:
        weighted: Array = rows @ values @ columns.T
        return weighted

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    likeness = (2 * mx * my + _C1) * (2 * cov + _C2) / ((mx * mx + my * my + _C1) * (vx + vy + _C2))
    found: Array = likeness.mean((1, 2))
    return found


def score(outputs: Arrays, targets: Array) -> Array:
    """PSNR of the program's ``restored`` images, ``(B,)`` dB."""
    return psnr(outputs[OUTPUT], targets)


def likeness(outputs: Arrays, targets: Array) -> Array:
    """SSIM of the program's ``restored`` images, ``(B,)``."""
    return ssim(outputs[OUTPUT], targets)


def gaussian(distances: Array, sigma: float) -> Array:
    """Gaussian weights of ``distances``, each row summing to 1."""
    weights = np.exp(-0.5 * (distances / sigma) ** 2)
    weights /= weights.sum(-1, keepdims=True)
    return weights


def _shown(images: Array) -> Array:
    return np.clip(images.astype(np.float64), 0.0, 1.0)


def _windows(size: int) -> Array:
    """``(size − 10, size)``: row i weighs the 11 positions from i on."""
    taps = gaussian(np.arange(_WINDOW) - _WINDOW // 2, _SIGMA)
    windows = np.zeros((size - _WINDOW + 1, size))
    for i, row in enumerate(windows):
        row[i : i + _WINDOW] = taps
    return windows
