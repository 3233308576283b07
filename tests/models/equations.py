"""The transformers' building equations in numpy and float64, vector by vector, for tests that recompute a model."""

from __future__ import annotations

import math

import numpy as np


def normed(x, p, name, eps):
    """LayerNorm (Ba et al. 2016, equation 4) with the gain and bias called ``name``."""
    return (x - x.mean()) / np.sqrt(x.var() + eps) * p[f"{name}.weight"] + p[f"{name}.bias"]


def mapped(x, p, name):
    """A linear layer."""
    return p[f"{name}.weight"] @ x + p[f"{name}.bias"]


def gelu(x, approximate="none"):
    """GELU (Hendrycks, Gimpel 2016): by the error function, or its approximation by tanh."""
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def turned(x, position, frequencies):
    """RoFormer's equation 15, pair by pair."""
    result = np.zeros_like(x)
    for i, frequency in enumerate(frequencies):
        c, s = np.cos(position * frequency), np.sin(position * frequency)
        result[2 * i : 2 * i + 2] = np.array([[c, -s], [s, c]]) @ x[2 * i : 2 * i + 2]
    return result
