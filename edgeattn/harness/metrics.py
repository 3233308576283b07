"""How far two arrays are apart: the figures behind every parity verdict.

Everything is computed in float64 over the elements that are finite on both sides; elements whose class (finite, NaN,
+Inf, −Inf) differs are counted apart, because one of them is a fault at any tolerance.

Where a figure means nothing it is None instead of a reassuring number:

    sqnr_db   None when the reference has no energy (all zeros): there is no signal to compare the noise with.
              Equal arrays have infinite SQNR, reported as 200 dB (float32 data cannot exceed about 160 dB otherwise).
    cosine    None for a single element (it is ±1 whatever the error) and when the reference has no energy.
              0 when only the candidate is all zeros: nothing of the signal is left.

SQNR counts the mean of the reference as signal: an output that is one large constant plus a small pattern can lose
the pattern and keep its SQNR. The task metric catches that; ``mean_abs`` and ``max_abs`` are beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgeattn.program import Array

SQNR_CAP_DB = 200.0


@dataclass(frozen=True)
class Metrics:
    """Distance of a candidate from a reference.

    Attributes:
        max_abs, mean_abs: absolute error; None when no element is finite on both sides.
        sqnr_db: 20·log10(‖x‖/‖x−y‖) dB, at most 200. cosine: x·y / (‖x‖‖y‖).
        nonfinite: elements whose NaN or ±Inf differ. size: elements compared.
        ref_rms, error_rms: root mean square of the reference and of the error.
        ref_max: largest finite magnitude of the reference (of ``golden`` when given).
        golden_error, ref_golden_error: max absolute error of candidate and reference against ``golden``.
    """

    max_abs: float | None
    mean_abs: float | None
    sqnr_db: float | None
    cosine: float | None
    nonfinite: int
    size: int
    ref_rms: float = 0.0
    error_rms: float = 0.0
    ref_max: float = 0.0
    golden_error: float | None = None
    ref_golden_error: float | None = None


def metrics(ref: Array, out: Array, golden: Array | None = None) -> Metrics:
    """Compare two arrays of one shape.

    Args:
        ref: what the oracle computed.
        out: what the candidate computed.
        golden: the oracle in float64, if there is one.

    Raises:
        ValueError: the shapes differ (judge() reports that as a failed output instead).
    """
    x, y = _float64(ref), _float64(out)
    g = None if golden is None else _float64(golden)
    if x.shape != y.shape or (g is not None and g.shape != x.shape):
        raise ValueError(f"shapes differ: {ref.shape} and {out.shape}")
    nonfinite = int(np.count_nonzero(_kinds(x) != _kinds(y)))
    finite = np.isfinite(x) & np.isfinite(y)
    if g is not None:
        finite &= np.isfinite(g)
        g = g[finite]
    x, y = x[finite], y[finite]
    if not x.size:
        return Metrics(None, None, None, None, nonfinite, ref.size)
    error = np.abs(x - y)
    return Metrics(
        max_abs=float(error.max()),
        mean_abs=float(error.mean()),
        sqnr_db=sqnr_db(_rms(x), _rms(error)),
        cosine=_cosine(x, y),
        nonfinite=nonfinite,
        size=ref.size,
        ref_rms=_rms(x),
        error_rms=_rms(error),
        ref_max=float(np.abs(x if g is None else g).max()),
        golden_error=None if g is None else float(np.abs(y - g).max()),
        ref_golden_error=None if g is None else float(np.abs(x - g).max()),
    )


def sqnr_db(signal_rms: float, error_rms: float) -> float | None:
    """Signal to quantization noise in dB; None without signal, 200 without noise."""
    if error_rms == 0.0:
        return SQNR_CAP_DB if signal_rms > 0.0 else None
    if signal_rms == 0.0:
        return None
    return min(SQNR_CAP_DB, float(20.0 * (np.log10(signal_rms) - np.log10(error_rms))))


def _float64(array: Array) -> Array:
    return np.asarray(array).astype(np.float64).reshape(-1)


def _kinds(x: Array) -> Array:
    """0 finite, 1 NaN, 2 +Inf, 3 −Inf."""
    return np.select([np.isnan(x), np.isposinf(x), np.isneginf(x)], [1, 2, 3], 0)


def _rms(x: Array) -> float:
    """Root mean square, scaled so that squares of large values do not overflow."""
    top = float(np.abs(x).max())
    if top == 0.0:
        return 0.0
    return top * float(np.sqrt(np.mean(np.square(x / top))))


def _cosine(x: Array, y: Array) -> float | None:
    if x.size < 2 or not x.any():
        return None
    if not y.any():
        return 0.0
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1.0, 1.0))
