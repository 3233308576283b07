"""Readers of numbers in words: teacher forcing on random training numbers in random spellings."""

from __future__ import annotations

import numpy as np
from torch import nn

from edgeattn.tasks import numbers
from edgeattn.training._translators import fit_translator


def fit(net: nn.Module, steps: int = 1500, batch: int = 128, peak_rate: float = 4e-3) -> None:
    """Train; ``net`` maps source, mask and forced tokens to logits ``(B, T, V)``."""
    fit_translator(net, numbers, draw, steps, batch, peak_rate)


def draw(random: np.random.RandomState, count: int) -> tuple[list[str], list[str]]:
    """Training numbers, each in a random spelling, and their digits."""
    drawn = numbers.draw(random, count)
    forms = random.randint(len(numbers.FORMS), size=count)
    texts = [numbers.FORMS[form](n) for form, n in zip(forms, drawn, strict=True)]
    return texts, [str(n) for n in drawn]
