"""CBAM: channel attention, then spatial attention on its result.

    x' = M_c(x) ⊙ x         x and x' (B, C, H, W), M_c (B, C, 1, 1): see the card of ``cam``
    y = M_s(x') ⊙ x'        y (B, C, H, W), M_s (B, 1, H, W): see the card of ``sam``

Source: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, section 3, equation 1; the
order "channel first" is the outcome of its section 4.1.
Deviations: those of ``cam`` and ``sam``. In a residual network it sits after the last BatchNorm of the residual
branch, before the sum, as in the paper's figure 3.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.blocks.cam import Cam
from edgeattn.blocks.sam import Sam


class Cbam(nn.Module):
    """CBAM with reduction ratio R and a k×k spatial convolution; masks come from ``channel.gate``, ``spatial.gate``."""

    def __init__(self, channels: int, reduction: int = 16, kernel: int = 7) -> None:
        super().__init__()
        self.channel = Cam(channels, reduction)
        self.spatial = Sam(channels, kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the gated features, same shape."""
        refined: torch.Tensor = self.spatial(self.channel(x))
        return refined


BLOCK = Block(
    name="cbam",
    kind="channel+spatial",
    build=Cbam,
    source="Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018, section 3, equation 1",
)
