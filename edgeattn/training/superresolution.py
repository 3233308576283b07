"""Super-resolution networks: mean absolute error on random detailed crops of the training photographs, turned about.

Source: Lim et al. 2017, section 4.2 (the absolute error; flips and quarter turns).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeattn.tasks import superresolution
from edgeattn.tasks._photographs import DETAIL, training_crops
from edgeattn.training._augment import turned
from edgeattn.training._optimise import SEED, optimise


def fit(net: nn.Module, steps: int = 2000, batch: int = 16, side: int = 48, peak_rate: float = 2e-3) -> None:
    """Train; ``net`` maps low-resolution images to images of ``side`` pixels, twice as large."""
    random = np.random.RandomState(SEED)

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(steps):
            high = turned(training_crops(batch, side, random, DETAIL), random)
            low = torch.from_numpy(superresolution.downscaled(high))
            yield functional.l1_loss(net(low), torch.from_numpy(high))

    optimise(net, losses(), steps, peak_rate)
