"""Intervals for medians of autocorrelated samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeattn.report.schema import Ratio

if TYPE_CHECKING:
    from edgeattn.program import Array

RESAMPLES = 4000
_CELLS = 4_000_000
"""Indices held at once: bounds the memory, whatever the sample size."""


def median_interval(values: Array, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % interval of the median of ``(n,)`` values by a circular block bootstrap.

    Neighbours in time are alike (clock changes, other processes), so blocks of about n^(1/3) neighbours are drawn
    instead of single values; single draws would claim a precision that the series does not have.
    """
    n = len(values)
    block = max(1, round(n ** (1 / 3)))
    blocks = -(-n // block)
    rng = np.random.default_rng(seed)
    medians: list[Array] = []
    rows = max(1, _CELLS // (blocks * block))
    for start in range(0, resamples, rows):
        heads = rng.integers(0, n, size=(min(rows, resamples - start), blocks, 1))
        picks = ((heads + np.arange(block)) % n).reshape(len(heads), -1)[:, :n]
        medians.append(np.median(values[picks], axis=1))
    low, high = np.quantile(np.concatenate(medians), [0.025, 0.975])
    return float(low), float(high)


def ratio(numerator: Array, denominator: Array, seed: int = 0) -> Ratio:
    """Median of the per-round ratios ``(n,)`` and its interval, taken on logarithms so that a/b and b/a mirror."""
    logs = np.log(numerator) - np.log(denominator)
    low, high = median_interval(logs, seed)
    return Ratio(median=float(np.exp(np.median(logs))), ci95=(float(np.exp(low)), float(np.exp(high))))
