"""CBAM's spatial attention: one gate per position, from the maximum and mean over the channels.

    p = [max of x over C ; mean of x over C]        x (B, C, H, W), p (B, 2, H, W), the maximum first
    M_s = σ(BN(f(p)))                               f a 7×7 convolution 2 → 1 without bias, M_s (B, 1, H, W)
    y = M_s ⊙ x                                     y (B, C, H, W)

Source: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, section 3.2, equation 3.
Deviations: the equation concatenates [mean; max] and shows no normalisation; the authors' released code
concatenates [max; mean] and puts a BatchNorm (here with eps 1e-5) after the convolution, and so does this file.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.errors import UsageError


class Sam(nn.Module):
    """Spatial attention with an odd ``kernel``; the submodule ``gate`` emits M_s as ``(B, 1, H, W)``.

    ``channels`` is taken so that every block is built alike; no weight depends on it.

    Raises:
        UsageError: an even kernel, which could not keep H and W.
    """

    def __init__(self, channels: int, kernel: int = 7) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise UsageError(f"kernel={kernel} must be odd and positive", hint="the paper uses 7, and tries 3")
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(1, eps=1e-5)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the gated features, same shape."""
        return x * self.mask(x)

    def mask(self, x: torch.Tensor) -> torch.Tensor:
        """M_s alone, ``(B, 1, H, W)``."""
        peak = torch.max(x, 1)[0].unsqueeze(1)
        mean = torch.mean(x, 1).unsqueeze(1)
        pooled = torch.cat((peak, mean), dim=1)
        mask: torch.Tensor = self.gate(self.norm(self.conv(pooled)))
        return mask


BLOCK = Block(
    name="sam",
    kind="spatial",
    build=Sam,
    source="Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018, section 3.2, equation 3",
)
