"""Writers of numbers in words: teacher forcing on random training numbers, their digits in random forms."""

from __future__ import annotations

import numpy as np
from torch import nn

from edgeattn.tasks import numbers, words
from edgeattn.training._translators import fit_translator


def fit(net: nn.Module, steps: int = 600, batch: int = 64, peak_rate: float = 4e-3) -> None:
    """Train; ``net`` maps source, mask and forced tokens to logits ``(B, T, V)``."""
    fit_translator(net, words, draw, steps, batch, peak_rate)


def draw(random: np.random.RandomState, count: int) -> tuple[list[str], list[str]]:
    """Training numbers in digits of a random form, and their words."""
    drawn = numbers.draw(random, count)
    forms = random.randint(len(words.FORMS), size=count)
    texts = [words.FORMS[form](n) for form, n in zip(forms, drawn, strict=True)]
    return texts, [words.spell(n) for n in drawn]
