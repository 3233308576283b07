"""Classifiers of handwritten digits: AdamW on distorted scans with smoothed labels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from edgeattn.tasks import digits
from edgeattn.training._optimise import SEED, optimise


def fit(net: nn.Module, epochs: int = 40, batch: int = 64, peak_rate: float = 3e-3, weight_decay: float = 0.02) -> None:
    """Train on randomly shifted, turned, sheared and scaled digits; ``net`` maps images to logits ``(B, 10)``."""
    images, labels = map(torch.from_numpy, digits.load("train"))
    random = torch.Generator().manual_seed(SEED)

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=random)
            for start in range(0, len(images) - batch + 1, batch):
                rows = order[start : start + batch]
                logits = net(distort(images[rows], random))
                yield functional.cross_entropy(logits, labels[rows], label_smoothing=0.1)

    optimise(net, losses(), epochs * (len(images) // batch), peak_rate, weight_decay)


def distort(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """A random affine view of each image ``(B, 1, H, W)``: ±0.22 rad, ±12 % size, ±0.15 shear, ±2.5 pixels."""
    turn, size, shear, right, down = (2 * torch.rand(5, len(images), generator=random) - 1).unbind(0)
    turn, size, shear, right, down = 0.22 * turn, 1 + 0.12 * size, 0.15 * shear, 0.16 * right, 0.16 * down
    rows = (
        torch.stack((size * turn.cos(), shear - turn.sin(), right), 1),
        torch.stack((turn.sin(), size * turn.cos(), down), 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    paper = -digits.MEAN / digits.STD  # grid_sample fills with 0, so the empty paper is moved there
    return functional.grid_sample(images - paper, grid, align_corners=False) + paper
