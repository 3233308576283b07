"""CBAM's channel attention: one gate per channel, from the channels' means and maxima through one shared MLP.

    a = mean of x over H and W, m = max of x over H and W       x (B, C, H, W), a and m (B, C)
    M_c = σ(MLP(a) + MLP(m))                                    M_c (B, C)
    MLP(z) = W₁ · ReLU(W₀ · z + b₀) + b₁                        W₀ (C/R, C), b₀ (C/R), W₁ (C, C/R), b₁ (C)
    y = M_c ⊙ x                                                 y (B, C, H, W)

Source: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, section 3.1, equation 2.
Deviations: the hidden width is max(C // R, 1), so a layer narrower than R keeps one unit. The equation in the paper
leaves biases out; the authors' parameter counts include them, and so does this file.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.blocks._mlp import bottleneck


class Cam(nn.Module):
    """Channel attention with reduction ratio R; the submodule ``gate`` emits M_c as ``(B, C)``."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.max_pool = nn.AdaptiveMaxPool2d(1)
        self.mlp = bottleneck(channels, reduction)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the gated features, same shape."""
        b, c, _, _ = x.shape
        mean = self.mlp(self.avg_pool(x).view(b, c))
        peak = self.mlp(self.max_pool(x).view(b, c))
        scale: torch.Tensor = self.gate(mean + peak).unsqueeze(2).unsqueeze(3)
        return x * scale.expand_as(x)


BLOCK = Block(
    name="cam",
    kind="channel",
    build=Cam,
    source="Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018, section 3.1, equation 2",
)
