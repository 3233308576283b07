"""How every translator is trained: teacher forcing on texts that are drawn anew for every update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edgeattn.training._optimise import SEED, forced_logits, optimise

Draw = Callable[[np.random.RandomState, int], tuple[list[str], list[str]]]
"""``draw(random, count)`` gives so many source texts and what each should become."""


def fit_translator(net: nn.Module, text: Any, draw: Draw, steps: int, batch: int, peak_rate: float) -> None:
    """Train; ``net`` maps source, mask and forced tokens to logits ``(B, T, V)``.

    Args:
        text: the task's module: ``encode``, ``encode_targets`` and ``START``.
        draw: a batch of training pairs.
    """
    random = np.random.RandomState(SEED)

    def losses() -> Iterator[torch.Tensor]:
        for _ in range(steps):
            sources, wanted = draw(random, batch)
            targets = torch.from_numpy(text.encode_targets(wanted))
            logits = forced_logits(net, text.encode(sources), targets, text.START)
            yield functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    optimise(net, losses(), steps, peak_rate)
