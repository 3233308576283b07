"""CBAM: channel attention, then spatial attention on its result; the other arrangements are options.

    x' = M_c(x) ⊙ x         x and x' (B, C, H, W), M_c (B, C, 1, 1): see the card of ``cam``
    y = M_s(x') ⊙ x'        y (B, C, H, W), M_s (B, 1, H, W): see the card of ``sam``

    order="spatial-first": x' = M_s(x) ⊙ x, y = M_c(x') ⊙ x'        order="parallel": y = M_c(x) ⊙ M_s(x) ⊙ x

Source: Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module", ECCV 2018, section 3, equation 1; the
three orders are those it weighs under "Arrangement of attention modules" in section 3 and compares in section 4.1,
whose outcome is "channel-first", the default.
Deviations: those of ``cam`` and ``sam``. The paper gives no equation for the parallel order; here both masks are
computed from x and multiply it. In a residual network it sits after the last BatchNorm of the residual branch, before
the sum, as in the paper's figure 3.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.blocks.cam import Cam
from edgeattn.blocks.sam import Sam
from edgeattn.errors import UsageError

ORDERS = ("channel-first", "spatial-first", "parallel")


class Cbam(nn.Module):
    """CBAM with reduction ratio R and a k×k spatial convolution; masks come from ``channel.gate``, ``spatial.gate``.

    Args:
        channels: C.
        reduction: R.
        kernel: k, odd.
        order: ``channel-first``, ``spatial-first`` or ``parallel``; the parameters are the same.

    Raises:
        UsageError: an unknown order, or what ``cam`` and ``sam`` refuse.
    """

    def __init__(self, channels: int, reduction: int = 16, kernel: int = 7, order: str = "channel-first") -> None:
        super().__init__()
        if order not in ORDERS:
            raise UsageError(f"unknown CBAM order '{order}'", hint=f"known: {', '.join(ORDERS)}")
        self.order = order
        self.channel = Cam(channels, reduction)
        self.spatial = Sam(channels, kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W)`` to the gated features, same shape."""
        refined: torch.Tensor
        if self.order == "parallel":
            refined = self.channel(x) * self.spatial.mask(x)
        elif self.order == "spatial-first":
            refined = self.channel(self.spatial(x))
        else:
            refined = self.spatial(self.channel(x))
        return refined


BLOCK = Block(
    name="cbam",
    kind="channel+spatial",
    build=Cbam,
    source="Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018, section 3, equation 1",
)
