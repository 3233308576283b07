"""Writers of numbers in words: teacher forcing on random training numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeattn.tasks import numbers, words
from edgeattn.training._optimise import SEED, forced_logits, optimise


def fit(net: nn.Module, steps: int = 600, batch: int = 64, peak_rate: float = 4e-3) -> None:
    """Train; ``net`` maps source, mask and forced tokens to logits ``(B, T, V)``."""
    random = np.random.RandomState(SEED)

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(steps):
            drawn = numbers.draw(random, batch)
            forms = random.randint(len(words.FORMS), size=batch)
            feeds = words.encode([words.FORMS[form](n) for form, n in zip(forms, drawn, strict=True)])
            targets = torch.from_numpy(words.encode_targets([words.spell(n) for n in drawn]))
            logits = forced_logits(net, feeds, targets, words.START)
            yield functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    optimise(net, losses(), steps, peak_rate)
