"""Coordinate attention: one gate per channel and row, one per channel and column, from means along the other axis.

    z_h = mean of x over W, z_w = mean of x over H      x (B, C, H, W), z_h (B, C, H), z_w (B, C, W)
    f = δ(BN(F₁([z_h ; z_w])))                          F₁ 1×1, C → D; δ hard swish; f (B, D, H + W)
    g_h = σ(F_h(first H of f))                          F_h 1×1, D → C; g_h (B, C, H, 1)
    g_w = σ(F_w(last W of f))                           F_w 1×1, D → C; g_w (B, C, 1, W)
    y = x ⊙ g_h ⊙ g_w                                   y (B, C, H, W)

Source: Hou, Zhou, Feng, "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021, sections 3.2.1 and
3.2.2, equations 4 to 9.
Deviations: equation 6 writes D = C/R and a non-linearity δ, and the paper's figure 2 a BatchNorm before it; D is
max(C // R, 8), δ is hard swish and the convolutions have biases, as in the authors' released code.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.errors import UsageError

_NARROWEST = 8


class Coordinate(nn.Module):
    """Coordinate attention with reduction ratio R.

    The submodule ``gate`` runs twice a call: it emits g_h as ``(B, C, H, 1)``, then g_w as ``(B, C, W, 1)``.

    Raises:
        UsageError: channels or reduction is not positive.
    """

    def __init__(self, channels: int, reduction: int = 32) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise UsageError(
                f"channels={channels} and reduction={reduction} must both be positive",
                hint="a reduction ratio of 32 is the paper's choice",
            )
        hidden = max(channels // reduction, _NARROWEST)
        self.shared = nn.Conv2d(channels, hidden, 1)
        self.norm = nn.BatchNorm2d(hidden, eps=1e-5)
        self.activation = nn.Hardswish()
        self.rows = nn.Conv2d(hidden, channels, 1)
        self.columns = nn.Conv2d(hidden, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the gated features, same shape."""
        height = x.shape[2]
        z = torch.cat((x.mean(3), x.mean(2)), dim=2).unsqueeze(3)  # (B, C, H + W, 1)
        f = self.activation(self.norm(self.shared(z)))
        rows: torch.Tensor = self.gate(self.rows(f[:, :, :height]))
        columns: torch.Tensor = self.gate(self.columns(f[:, :, height:])).transpose(2, 3)
        return x * rows * columns


BLOCK = Block(
    name="coordinate",
    kind="channel+spatial",
    build=Coordinate,
    source="Hou et al., Coordinate Attention, CVPR 2021, sections 3.2.1-3.2.2, equations 4-9",
)
