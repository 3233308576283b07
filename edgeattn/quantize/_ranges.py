"""From the values that calibration saw to the range that INT8 covers: one function a method, numpy only.

A range is symmetric, so it is one number: the largest magnitude that keeps its own level. What lies beyond is clipped.
Exact zeros fit every range and are not counted, so that those of a ReLU do not drown everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgeattn.program import Array

BINS = 4096  # 16 and more a level of INT8
PERCENTILE = 99.99
_KEPT = 99.0  # percent of the values that entropy does not clip
_CANDIDATES = 128
_TINY = 1e-10  # stands for a probability of zero, whose logarithm there is none of


@dataclass
class Histogram:
    """How often each magnitude was seen, in bins of equal width from 0 to ``top``; the width doubles where needed.

    Attributes:
        counts: ``(BINS,)`` int64, without zeros.
        top: where the last bin ends; 0 while nothing but zeros was seen.
        peak: the largest magnitude seen, exactly; it may come from values that were not counted.
    """

    counts: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))
    top: float = 0.0
    peak: float = 0.0

    def reach(self, peak: float) -> None:
        """Make room for a magnitude: neighbours are merged until it fits."""
        self.peak = max(self.peak, peak)
        self.top = self.top or peak
        while self.top < peak:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self.top *= 2

    def add(self, values: Array) -> None:
        """Count finite values of any shape."""
        magnitudes = np.abs(values.astype(np.float64, copy=False).ravel())
        seen = magnitudes[magnitudes > 0]
        if seen.size:
            self.reach(float(seen.max()))
            bins = np.minimum((seen * (BINS / self.top)).astype(np.int64), BINS - 1)
            self.counts += np.bincount(bins, minlength=BINS)

    def copy(self) -> Histogram:
        """As it is now."""
        return Histogram(self.counts.copy(), self.top, self.peak)


def minmax(seen: Histogram, levels: int) -> float:
    """The largest magnitude: nothing is clipped."""
    del levels
    return seen.peak


def percentile(seen: Histogram, levels: int) -> float:
    """The magnitude that 99.99 % of the values do not exceed."""
    del levels
    return min(seen.peak, (_covering(seen, PERCENTILE) + 1) * seen.top / BINS)


def entropy(seen: Histogram, levels: int) -> float:
    """The range whose ``levels`` steps keep the most of the distribution: least Kullback-Leibler divergence.

    Deviation: at most one value in a hundred is clipped. Divergence does not see how far a value is moved, and of data
    in lumps, such as black and white in images, it clips whole lumps.

    Source: S. Migacz, "8-bit inference with TensorRT", GTC 2017, slides 23 to 37.
    """
    last = _last(seen)
    edges = _spread(max(_covering(seen, _KEPT) + 1, min(levels, last)), last)
    divergences = [_divergence(seen.counts[: last + 1], edge, min(levels, edge)) for edge in edges]
    return min(seen.peak, float(edges[int(np.argmin(divergences))]) * seen.top / BINS)


def mse(seen: Histogram, levels: int) -> float:
    """The range with the least mean squared error, rounding inside and clipping outside taken together.

    Values are spread evenly over their bin, which adds the bin's own variance ``width^2 / 12`` wherever they go.
    """
    last = _last(seen)
    width = seen.top / BINS
    centres = (np.arange(last + 1) + 0.5) * width  # (bins,)
    peaks = _spread(min(levels // 4, last), last) * width  # (candidates,)
    steps = (peaks / levels)[:, None]
    stored = np.minimum(np.rint(centres / steps), levels) * steps  # (candidates, bins)
    errors = ((centres - stored) ** 2 @ seen.counts[: last + 1].astype(np.float64)).ravel()
    return min(seen.peak, float(peaks[int(np.argmin(errors))]))


METHODS: Mapping[str, Callable[[Histogram, int], float]] = {
    "minmax": minmax,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}


def peak(method: str, seen: Histogram, levels: int) -> float:
    """The largest magnitude that keeps its own level.

    Args:
        method: a key of :data:`METHODS`.
        seen: what calibration counted.
        levels: steps from zero to the peak: 127, or 255 where a value is stored unsigned.

    Returns:
        0 where only zeros were seen.
    """
    return METHODS[method](seen, levels) if seen.counts.any() or method == "minmax" else seen.peak


def _covering(seen: Histogram, percent: float) -> int:
    """The bin up to which so many of the values lie."""
    below = np.cumsum(seen.counts)
    return int(np.searchsorted(below, below[-1] * percent / 100))


def _last(seen: Histogram) -> int:
    """The last bin that holds something."""
    return int(np.flatnonzero(seen.counts)[-1])


def _spread(first: int, last: int) -> Array:
    """At most 128 candidates for the end of the range, in bins, the whole range among them."""
    return np.unique(np.linspace(max(first, 1), last + 1, _CANDIDATES).astype(np.int64))


def _divergence(counts: Array, edge: int, levels: int) -> float:
    """KL divergence between the values clipped at bin ``edge`` and the same in ``levels`` steps."""
    inside = counts[:edge].astype(np.float64)
    clipped = inside.copy()
    clipped[-1] += counts[edge:].sum()
    starts = np.arange(levels) * edge // levels
    sizes = np.diff(starts, append=edge)
    held = inside > 0
    sums, filled = np.add.reduceat(inside, starts), np.add.reduceat(held.astype(np.int64), starts)
    merged = np.repeat(sums / np.maximum(filled, 1), sizes) * held
    if not merged.any():
        return np.inf
    p, q = clipped / clipped.sum(), merged / merged.sum()
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], _TINY))))
