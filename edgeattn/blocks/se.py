"""Squeeze-and-Excitation: one gate per channel, computed from the channels' means.

    z = mean of x over H and W                  x (B, C, H, W), z (B, C)
    s = σ(W₂ · ReLU(W₁ · z + b₁) + b₂)          W₁ (C/R, C), b₁ (C/R), W₂ (C, C/R), b₂ (C), s (B, C)
    y = s ⊙ x                                   y (B, C, H, W)

Source: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, sections 3.1 and 3.2, equations 2 to 4.
Deviations: the two linear layers have biases, as the parameter counts usually quoted do; the hidden width is
max(C // R, 1), so a layer narrower than R keeps one unit.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.blocks._mlp import bottleneck


class Se(nn.Module):
    """SE over ``channels`` with reduction ratio R; the submodule ``gate`` emits s as ``(B, C)``."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.mlp = bottleneck(channels, reduction)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the gated features, same shape."""
        b, c, _, _ = x.shape
        z = self.pool(x).view(b, c)
        s: torch.Tensor = self.gate(self.mlp(z)).view(b, c, 1, 1)
        return x * s.expand_as(x)


BLOCK = Block(
    name="se",
    kind="channel",
    build=Se,
    source="Hu et al., Squeeze-and-Excitation Networks, CVPR 2018, sections 3.1-3.2",
)
