"""Translators of dates: teacher forcing on random training dates in random forms."""

from __future__ import annotations

import numpy as np
from torch import nn

from edgeattn.tasks import dates
from edgeattn.training._translators import fit_translator


def fit(net: nn.Module, steps: int = 1500, batch: int = 128, peak_rate: float = 4e-3) -> None:
    """Train; ``net`` maps source, mask and forced tokens to logits ``(B, T, V)``."""
    fit_translator(net, dates, draw, steps, batch, peak_rate)


def draw(random: np.random.RandomState, count: int) -> tuple[list[str], list[str]]:
    """Training dates, each in a random form, and their ISO dates."""
    known, _ = dates.split()
    drawn = [known[index] for index in random.randint(len(known), size=count)]
    forms = random.randint(len(dates.FORMS), size=count)
    texts = [dates.FORMS[form](date) for form, date in zip(forms, drawn, strict=True)]
    return texts, [date.isoformat() for date in drawn]
