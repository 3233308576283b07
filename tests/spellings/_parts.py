"""Spellings of the parts that vision gates are made of: pools, layers, activations, gate functions, products.

Shapes: x ``(B, C, H, W)``; pools give ``(B, C)`` or ``(B, C, 1, 1)``, as their spelling does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Op: TypeAlias = Callable[[Tensor], Tensor]

C, R = 16, 4  # channels, and how many of them share a hidden unit

MEANS: dict[str, Op] = {
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
    "mean": lambda x: x.mean((2, 3)),
    "mean-keepdim": lambda x: x.mean((2, 3), keepdim=True),
    "mean-from-the-end": lambda x: x.mean((-1, -2), keepdim=True),
    "mean-twice": lambda x: x.mean(3).mean(2),
    "mean-twice-keepdim": lambda x: x.mean(-1, keepdim=True).mean(-2, keepdim=True),
    "window": lambda x: F.avg_pool2d(x, (x.shape[2], x.shape[3])),
    "view": lambda x: x.view(x.shape[0], x.shape[1], -1).mean(-1),
    "flatten": lambda x: x.flatten(2).mean(2, keepdim=True),
    "sum": lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]),
    "sum-flat": lambda x: x.flatten(2).sum(-1) * (1 / 48),
    "einsum": lambda x: torch.einsum("nchw->nc", x) / 48,
    "nhwc": lambda x: x.permute(0, 2, 3, 1).mean((1, 2)),
}
MAXIMA: dict[str, Op] = {
    "adaptive": lambda x: F.adaptive_max_pool2d(x, 1),
    "mean": lambda x: x.amax((2, 3)),
    "mean-keepdim": lambda x: x.amax((2, 3), keepdim=True),
    "mean-from-the-end": lambda x: x.amax((-1, -2), keepdim=True),
    "mean-twice": lambda x: x.max(3)[0].max(2)[0],
    "window": lambda x: F.max_pool2d(x, (x.shape[2], x.shape[3])),
    "view": lambda x: x.view(x.shape[0], x.shape[1], -1).max(-1)[0],
    "flatten": lambda x: x.flatten(2).max(2, keepdim=True).values,
    "nhwc": lambda x: x.permute(0, 2, 3, 1).amax((1, 2)),
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU("tanh"),
    "leaky": lambda: nn.LeakyReLU(0.1),
    "prelu": nn.PReLU,
    "hardswish": nn.Hardswish,
    "tanh": nn.Tanh,
    "mish": nn.Mish,
}
SIGMOIDS: dict[str, Op] = {
    "sigmoid": torch.sigmoid,
    "hard": F.hardsigmoid,
    "relu6-over-6": lambda t: F.relu6(t + 3) / 6,
    "clamp-by-sixth": lambda t: torch.clamp(t + 3, 0, 6) * 0.1667,
    "hardtanh-half": lambda t: (F.hardtanh(t / 3) + 1) * 0.5,
    "exp": lambda t: 1 / (1 + torch.exp(-t)),
    "exp-reciprocal": lambda t: torch.reciprocal(torch.exp(-t) + 1.0),
    "exp-over-exp": lambda t: torch.exp(t) / (torch.exp(t) + 1),
    "half-tanh": lambda t: 0.5 * torch.tanh(0.5 * t) + 0.5,
    "tanh-halved": lambda t: (torch.tanh(t / 2) + 1) / 2,
}
PRODUCTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index": lambda x, m: x * m.flatten(1)[..., None, None],
    "view": lambda x, m: x * m.view(x.shape[0], x.shape[1], 1, 1),
    "expand": lambda x, m: x * m.view(x.shape[0], x.shape[1], 1, 1).expand_as(x),
    "expand-first": lambda x, m: m.flatten(1).unsqueeze(2).unsqueeze(3).expand_as(x) * x,
    "unsqueeze": lambda x, m: x * m.flatten(1).unsqueeze(-1).unsqueeze(-1),
    "repeat": lambda x, m: x * m.view(x.shape[0], x.shape[1], 1, 1).repeat(1, 1, x.shape[2], x.shape[3]),
    "einsum": lambda x, m: torch.einsum("nchw,nc->nchw", x, m.flatten(1)),
    "flat": lambda x, m: (x.flatten(2) * m.view(x.shape[0], -1, 1)).view(x.shape),
    "nhwc": lambda x, m: (x.permute(0, 2, 3, 1) * m.view(x.shape[0], 1, 1, -1)).permute(0, 3, 1, 2),
}


class Mlp(nn.Module):
    """C → C / R → C by layers of one kind, from ``(B, C)`` or ``(B, C, 1, 1)``."""

    def __init__(self, layer: str = "linear", bias: bool = True, activation: str = "relu", inside: str = "") -> None:
        super().__init__()
        self.layer = layer
        made: dict[str, Callable[[int, int], nn.Module]] = {
            "linear": lambda i, o: nn.Linear(i, o, bias=bias),
            "linear-last": lambda i, o: nn.Linear(i, o, bias=bias),
            "conv": lambda i, o: nn.Conv2d(i, o, 1, bias=bias),
            "conv1d": lambda i, o: nn.Conv1d(i, o, 1, bias=bias),
        }
        norm = {"linear": nn.BatchNorm1d, "conv": nn.BatchNorm2d, "conv1d": nn.BatchNorm1d}.get(layer, nn.LayerNorm)
        within = {"norm": [norm(C // R)], "dropout": [nn.Dropout(0.1)], "layernorm": [nn.LayerNorm(C // R)], "": []}
        parts = [made[layer](C, C // R), *within[inside], ACTIVATIONS[activation](), made[layer](C // R, C)]
        self.layers = nn.Sequential(*parts)

    def forward(self, pooled: Tensor) -> Tensor:
        y = pooled.flatten(1)
        if self.layer == "conv":
            y = pooled if pooled.ndim == 4 else y[:, :, None, None]
        elif self.layer == "conv1d":
            y = y.unsqueeze(-1)
        elif self.layer == "linear-last":  # TensorFlow's Dense over (B, 1, 1, C)
            y = y[:, None, None, :]
        made: Tensor = self.layers(y)
        return made.permute(0, 3, 1, 2) if self.layer == "linear-last" else made


def stem() -> nn.Module:
    """What makes the features of an image, so that they are no graph input."""
    return nn.Conv2d(3, C, 3, padding=1)
