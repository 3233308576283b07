"""Language models: the next character at every position of random windows of the training topics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeattn.tasks import text
from edgeattn.training._optimise import SEED, optimise


def fit(
    net: nn.Module,
    steps: int = 1500,
    batch: int = 16,
    window: int = 128,
    peak_rate: float = 4e-3,
    weight_decay: float = 0.1,
) -> None:
    """Train; ``net`` maps tokens and mask ``(B, T)`` to logits ``(B, T, V)``."""
    stream = np.concatenate(text.streams("train"))
    random = np.random.RandomState(SEED)
    mask = torch.ones(batch, window, dtype=torch.bool)

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(steps):
            starts = random.randint(len(stream) - window, size=batch)
            drawn = torch.from_numpy(np.stack([stream[start : start + window + 1] for start in starts]))
            logits = net(drawn[:, :-1], mask)
            yield functional.cross_entropy(logits.flatten(0, 1), drawn[:, 1:].flatten())

    optimise(net, losses(), steps, peak_rate, weight_decay)
