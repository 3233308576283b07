"""Translators of dates: teacher forcing on random training dates in random forms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeattn.tasks import dates
from edgeattn.training._optimise import SEED, forced_logits, optimise


def fit(net: nn.Module, steps: int = 1500, batch: int = 128, peak_rate: float = 4e-3) -> None:
    """Train; ``net`` maps source, mask and forced tokens to logits ``(B, T, V)``."""
    known, _ = dates.split()
    random = np.random.RandomState(SEED)

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(steps):
            drawn = [known[index] for index in random.randint(len(known), size=batch)]
            forms = random.randint(len(dates.FORMS), size=batch)
            feeds = dates.encode([dates.FORMS[form](date) for form, date in zip(forms, drawn, strict=True)])
            targets = torch.from_numpy(dates.encode_targets([date.isoformat() for date in drawn]))
            logits = forced_logits(net, feeds, targets, dates.START)
            yield functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    optimise(net, losses(), steps, peak_rate)
