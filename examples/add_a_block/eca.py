"""Efficient channel attention: one gate per channel, from a short 1-D convolution over the channels' means.

    z = mean of x over H and W                  x (B, C, H, W), z (B, C)
    s = σ(w ∗ z)                                w (k), a 1-D convolution over C with zero padding, s (B, C)
    y = s ⊙ x                                   y (B, C, H, W)

Source: Wang et al., "ECA-Net: Efficient Channel Attention for Deep CNNs", CVPR 2020, section 3.2, equation 5.
Deviations: k is an option, 3 by default; the paper's section 3.2.3 derives it from C.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block


class Eca(nn.Module):
    """ECA over ``channels``; the submodule ``gate`` emits s as ``(B, C)``. No weight depends on ``channels``."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the gated features, same shape."""
        z = self.pool(x).flatten(1).unsqueeze(1)  # (B, 1, C)
        s: torch.Tensor = self.gate(self.conv(z).squeeze(1))
        return x * s[:, :, None, None]


BLOCK = Block(
    name="eca",
    kind="channel",
    build=Eca,
    source="Wang et al., ECA-Net, CVPR 2020, section 3.2, equation 5",
)
