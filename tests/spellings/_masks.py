"""Spellings of masks, softmaxes and weighted sums over scores ``(B, S)`` and memory ``(B, S, D)``.

Masks are True (or 1) at valid positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Masking: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]

LOW = torch.finfo(torch.float32).min
MASKS: dict[str, Masking] = {
    "": lambda e, m: e,
    "-inf": lambda e, m: e.masked_fill(~m, float("-inf")),
    "-1e9": lambda e, m: e.masked_fill(m == 0, -1e9),
    "finfo-min": lambda e, m: e.masked_fill(~m, LOW),
    "where": lambda e, m: torch.where(m, e, torch.tensor(float("-inf"))),
    "float-added": lambda e, m: e + (1.0 - m) * LOW,
    "float-added-1e9": lambda e, m: e + (m - 1.0) * 1e9,
    "float-multiplied": lambda e, m: e * m,
    "float-to-bool": lambda e, m: e.masked_fill(m < 0.5, float("-inf")),
    # the two below also touch the weights: see SOFTMAXES
    "masked-softmax": lambda e, m: e.masked_fill(~m, float("-inf")),
    "weights-multiplied": lambda e, m: e * m.to(e.dtype),
}


def _exponentials(e: Tensor) -> Tensor:
    e = torch.exp(e)
    return e / e.sum(-1, keepdim=True)


def _shifted(e: Tensor) -> Tensor:
    e = torch.exp(e - e.amax(-1, keepdim=True))
    return e / e.sum(-1, keepdim=True)


SOFTMAXES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda e: torch.softmax(e, -1),
    "exp": _exponentials,
    "exp-shifted": _shifted,
    "log-exp": lambda e: torch.log_softmax(e, 1).exp(),
    "logsumexp": lambda e: torch.exp(e - torch.logsumexp(e, -1, keepdim=True)),
    "moved": lambda e: torch.softmax(e.transpose(0, 1), 0).transpose(0, 1),
    "keepdim": lambda e: torch.softmax(e.unsqueeze(-1), 1).squeeze(-1),
    "double": lambda e: torch.softmax(e.double(), -1).to(e.dtype),
}
WEIGHINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bmm": lambda w, h: torch.bmm(w.unsqueeze(1), h).squeeze(1),
    "matmul": lambda w, h: torch.matmul(w[:, None, :], h)[:, 0],
    "memory-first": lambda w, h: torch.bmm(h.transpose(1, 2), w.unsqueeze(2)).squeeze(2),
    "einsum": lambda w, h: torch.einsum("bs,bsd->bd", w, h),
    "sum-of-products": lambda w, h: (w.unsqueeze(-1) * h).sum(1),
}
