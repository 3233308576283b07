"""Efficient channel attention: one gate per channel, from a short 1-D convolution over the channels' means.

    z = mean of x over H and W                      x (B, C, H, W), z (B, C)
    s = σ(w ∗ z)                                    w (k), a 1-D convolution over C with zero padding, s (B, C)
    k = |log₂(C)/γ + b/γ|_odd, γ = 2, b = 1         |t|_odd the odd number nearest to t
    y = s ⊙ x                                       y (B, C, H, W)

Source: Wang, Wu, Zhu, Li, Zuo, Hu, "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
CVPR 2020, section 3.2, equations 9 (s) and 12 (k).
Deviations: none in the numbers. Where two odd numbers are equally near (C = 8, 128, 2048), the larger is taken, as
the authors' released code does. ``kernel`` sets k by hand, as the paper's tables with a fixed k do.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.errors import UsageError

_GAMMA, _B = 2, 1


class Eca(nn.Module):
    """ECA over ``channels``; the submodule ``gate`` emits s as ``(B, C)``.

    Args:
        channels: C; it chooses k, and no weight has its size.
        kernel: k, odd; None takes the paper's adaptive size.

    Raises:
        UsageError: channels is not positive, or an even kernel, which could not keep C.
    """

    def __init__(self, channels: int, kernel: int | None = None) -> None:
        super().__init__()
        if channels < 1:
            raise UsageError(f"channels={channels} must be positive")
        kernel = adaptive_kernel(channels) if kernel is None else kernel
        if kernel < 1 or kernel % 2 == 0:
            raise UsageError(f"kernel={kernel} must be odd and positive", hint="leave it out for the paper's own size")
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the gated features, same shape."""
        z = self.pool(x).flatten(1).unsqueeze(1)  # (B, 1, C)
        s: torch.Tensor = self.gate(self.conv(z).squeeze(1))
        return x * s.unsqueeze(2).unsqueeze(3)


def adaptive_kernel(channels: int) -> int:
    """Equation 12: the odd number nearest to (log₂ C + b) / γ, the larger of two."""
    # Every t in [2j, 2j + 2) is nearest to 2j + 1.
    return 2 * math.floor((math.log2(channels) + _B) / _GAMMA / 2) + 1


BLOCK = Block(
    name="eca",
    kind="channel",
    build=Eca,
    source="Wang et al., ECA-Net, CVPR 2020, section 3.2, equations 9 and 12",
)
