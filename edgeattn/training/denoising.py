"""Denoisers: mean squared error on random crops of the training photographs, turned about, under fresh noise.

Source: Zhang et al. 2017, section III, equation 1 (the squared error).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeattn.tasks import denoising
from edgeattn.tasks._photographs import training_crops
from edgeattn.training._augment import turned
from edgeattn.training._optimise import SEED, optimise


def fit(net: nn.Module, steps: int = 800, batch: int = 16, side: int = 64, peak_rate: float = 2e-3) -> None:
    """Train; ``net`` maps noisy images of ``side`` pixels to clean ones."""
    random = np.random.RandomState(SEED)

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(steps):
            clean = turned(training_crops(batch, side, random), random)
            noisy = torch.from_numpy(denoising.noisy(clean, random))
            yield functional.mse_loss(net(noisy), torch.from_numpy(clean))

    optimise(net, losses(), steps, peak_rate)
