"""A model edgeattn has never seen: a small detector head with its own spelling of CBAM.

edgeattn export examples/your_model.py:head -o head.onnx --shape features=1x32x20x20
edgeattn run examples/your_model.yaml -o runs/mine
"""

from __future__ import annotations

import torch
from torch import nn


class Attention(nn.Module):
    """Channel then spatial attention as found in many detectors: 1x1 convolutions, mean before max."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.excite = nn.Conv2d(channels // 8, channels, 1, bias=False)
        self.locate = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        x = x * torch.sigmoid(self.mlp(mean) + self.mlp(peak))
        pooled = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.locate(pooled))

    def mlp(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.excite(torch.relu(self.squeeze(pooled)))


class Head(nn.Module):
    """Features (B, 32, H, W) to boxes (B, 4, H, W) and scores (B, 10, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.SiLU(), Attention(64))
        self.boxes, self.scores = nn.Conv2d(64, 4, 1), nn.Conv2d(64, 10, 1)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.trunk(features)
        return self.boxes(x), self.scores(x)


def head() -> nn.Module:
    """What edgeattn calls; load your weights here, or pass --weights."""
    torch.manual_seed(0)
    return Head()
