"""Weights as INT8 levels, one scale an output channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgeattn.program import Array

LEVELS = 127  # symmetric: -127 .. 127, so that zero is exact and -128 never needs a special case


def quantize_weight(weight: Array, axis: int) -> tuple[Array, Array]:
    """Per-channel symmetric INT8: ``(int8 values, float32 scales)``; a channel of zeros takes scale 1/127."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peak = np.abs(weight).max(axis=others)
    scale = (np.where(peak > 0, peak, 1.0) / LEVELS).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    levels = np.clip(np.rint(weight / scale.reshape(shape)), -LEVELS, LEVELS)
    return levels.astype(np.int8), scale
