"""The one optimiser loop all trainings share, and teacher forcing for translators."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

log = logging.getLogger(__name__)

SEED = 0


def optimise(
    net: nn.Module, losses: Iterator[torch.Tensor], steps: int, peak_rate: float, weight_decay: float = 0.0
) -> None:
    """One-cycle AdamW with clipped gradients, one update for each loss that comes."""
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=peak_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, steps, pct_start=0.2)
    for step, loss in enumerate(losses):
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log.info("step %d of %d, loss %.4f", step, steps, loss.item())


def forced_logits(net: nn.Module, feeds: Any, targets: torch.Tensor, start: int) -> torch.Tensor:
    """Logits ``(B, T, V)`` of a net that reads a source.

    A translator is fed the right tokens, ``start`` and then all targets but the last; a net with slots needs none.
    """
    source = torch.from_numpy(feeds["src"]), torch.from_numpy(feeds["src_mask"])
    if getattr(net, "slots", None) is not None:
        logits: torch.Tensor = net(*source)
    else:
        tokens = torch.cat((torch.full_like(targets[:, :1], start), targets[:, :-1]), 1)
        logits = net(*source, tokens)
    return logits
