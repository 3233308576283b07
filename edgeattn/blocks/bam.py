"""BAM: a channel branch and a spatial branch, added before one sigmoid, and the features kept beside their gating.

    y = x + x ⊙ M, so y = (1 + M) ⊙ x           x, M and y (B, C, H, W)
    M = σ(M_c + M_s)                            both broadcast to (B, C, H, W)
    M_c = BN(W₁ · ReLU(W₀ · a + b₀) + b₁)       a = mean of x over H and W (B, C); W₀ (C/R, C), W₁ (C, C/R)
                                                M_c (B, C, 1, 1)
    M_s = BN(f₃(f₂(f₁(f₀(x)))))                 f₀ 1×1, C → C/R; f₁ and f₂ 3×3 with dilation d; f₃ 1×1, C/R → 1
                                                M_s (B, 1, H, W)

Source: Park, Woo, Lee, Kweon, "BAM: Bottleneck Attention Module", BMVC 2018, section 3, equations 1 to 4; R = 16 and
d = 4 are the choice of its ablation study.
Deviations: the hidden width is max(C // R, 1). Equation 4 shows no activation; a ReLU follows f₀, f₁ and f₂ here, as
in the authors' released code. That code also moves the BatchNorms behind the hidden layers and multiplies the two
branches; this file keeps the BatchNorms (eps 1e-5) and the sum of the equations, so its checkpoints do not load here.
M_c's BatchNorm sees one value a channel and image: training needs a batch of at least two.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.blocks._mlp import bottleneck
from edgeattn.errors import UsageError


class Bam(nn.Module):
    """BAM with reduction ratio R and dilation d; the submodule ``gate`` emits M as ``(B, C, H, W)``.

    Raises:
        UsageError: channels, reduction or dilation is not positive.
    """

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4) -> None:
        super().__init__()
        if dilation < 1:
            raise UsageError(f"dilation={dilation} must be positive", hint="the paper uses 4")
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.mlp = bottleneck(channels, reduction)
        self.channel_norm = nn.BatchNorm1d(channels, eps=1e-5)
        self.spatial = _spatial(channels, max(channels // reduction, 1), dilation)
        self.spatial_norm = nn.BatchNorm2d(1, eps=1e-5)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the features plus their gated copy, same shape."""
        channel = self.channel_norm(self.mlp(self.pool(x).flatten(1))).unsqueeze(2).unsqueeze(3)
        spatial = self.spatial_norm(self.spatial(x))
        mask: torch.Tensor = self.gate(channel + spatial)
        return x + x * mask


def _spatial(channels: int, hidden: int, dilation: int) -> nn.Sequential:
    """f₀ to f₃ with the ReLUs between them; the padding keeps H and W."""

    def wide() -> nn.Conv2d:
        return nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation)

    first, last = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, 1, 1)
    return nn.Sequential(first, nn.ReLU(), wide(), nn.ReLU(), wide(), nn.ReLU(), last)


BLOCK = Block(
    name="bam",
    kind="channel+spatial",
    build=Bam,
    source="Park et al., BAM: Bottleneck Attention Module, BMVC 2018, section 3, equations 1-4",
    residual=True,
)
