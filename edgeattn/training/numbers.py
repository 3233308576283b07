"""Readers of numbers in words: teacher forcing on random training numbers in random spellings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeattn.tasks import numbers
from edgeattn.training._optimise import SEED, forced_logits, optimise


def fit(net: nn.Module, steps: int = 1500, batch: int = 128, peak_rate: float = 4e-3) -> None:
    """Train; ``net`` maps source, mask and forced tokens to logits ``(B, T, V)``."""
    random = np.random.RandomState(SEED)

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(steps):
            drawn = numbers.draw(random, batch)
            forms = random.randint(len(numbers.FORMS), size=batch)
            feeds = numbers.encode([numbers.FORMS[form](n) for form, n in zip(forms, drawn, strict=True)])
            targets = torch.from_numpy(numbers.encode_targets([str(n) for n in drawn]))
            logits = forced_logits(net, feeds, targets, numbers.START)
            yield functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    optimise(net, losses(), steps, peak_rate)
