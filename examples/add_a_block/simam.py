"""SimAM: one gate per value, from how far the value stands out of its channel. It has no parameters.

    μ = mean of x over H and W                  x (B, C, H, W), μ (B, C, 1, 1)
    v = mean of (x − μ)² over H and W           v (B, C, 1, 1)
    1/e = (x − μ)² / (4 (v + λ)) + 1/2          1/e (B, C, H, W), the inverse of the paper's least energy
    y = σ(1/e) ⊙ x                              y (B, C, H, W)

Source: Yang, Zhang, Li, Xie, "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
ICML 2021, section 3, equations 5 and 6.
Deviations: v divides by H·W, as the text at equation 5 does; the authors' released code divides by H·W − 1, which
makes a 1×1 map NaN.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block


class Simam(nn.Module):
    """SimAM with the regulariser λ; the submodule ``gate`` emits the mask as ``(B, C, H, W)``.

    ``channels`` is taken so that every block is built alike.
    """

    def __init__(self, channels: int, strength: float = 1e-4) -> None:
        super().__init__()
        self.strength = strength
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the gated features, same shape."""
        distance = (x - x.mean((2, 3), keepdim=True)).square()
        variance = distance.mean((2, 3), keepdim=True)
        mask: torch.Tensor = self.gate(distance / (4 * (variance + self.strength)) + 0.5)
        return x * mask


BLOCK = Block(
    name="simam",
    kind="channel+spatial",
    build=Simam,
    source="Yang et al., SimAM, ICML 2021, section 3, equations 5 and 6",
)
