"""Squeeze-and-Excitation: one gate per channel, computed from the channels' means.

    z = mean of x over H and W                  x (B, C, H, W), z (B, C)
    s = σ(W₂ · ReLU(W₁ · z + b₁) + b₂)          W₁ (C/R, C), b₁ (C/R), W₂ (C, C/R), b₂ (C), s (B, C)
    y = s ⊙ x                                   y (B, C, H, W)

    gate="hard-sigmoid": σ(t) = min(max(t + 3, 0), 6) / 6, as MobileNetV3 has it

Source: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", CVPR 2018, sections 3.1 and 3.2, equations 2 to 4. The hard
sigmoid and R = 4 with it: Howard et al., "Searching for MobileNetV3", ICCV 2019, sections 5.2 and 5.3.
Deviations: the two linear layers have biases, as the parameter counts usually quoted do; the hidden width is
max(C // R, 1), so a layer narrower than R keeps one unit. ``multiple`` rounds it further, to the nearest multiple that
is not more than a tenth below; MobileNetV3's authors round to 8 in their released code, the paper does not say it.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.blocks._mlp import bottleneck
from edgeattn.errors import UsageError

_GATES = {"sigmoid": nn.Sigmoid, "hard-sigmoid": nn.Hardsigmoid}


class Se(nn.Module):
    """SE over ``channels``; the submodule ``gate`` emits s as ``(B, C)``.

    Args:
        channels: C.
        reduction: R.
        gate: σ, ``sigmoid`` or ``hard-sigmoid``.
        multiple: the hidden width is rounded to a multiple of it.

    Raises:
        UsageError: an unknown gate, or channels, reduction or multiple is not positive.
    """

    def __init__(self, channels: int, reduction: int = 16, gate: str = "sigmoid", multiple: int = 1) -> None:
        super().__init__()
        if gate not in _GATES:
            raise UsageError(f"unknown SE gate '{gate}'", hint=f"known: {', '.join(_GATES)}")
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.mlp = bottleneck(channels, reduction, multiple)
        self.gate = _GATES[gate]()

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
