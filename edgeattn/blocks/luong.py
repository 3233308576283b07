"""Luong's global attention: the decoder's present state scores every source position.

    e_s = hᵀ W h̄_s  (general)  or  hᵀ h̄_s  (dot)      h (B, D) query, h̄ (B, S, E) memory, W (D, E), e (B, S)
    α = softmax of e over the valid positions          α (B, S), 0 where the mask is False
    c = Σ_s α_s h̄_s                                    c (B, E)

Source: Luong, Pham, Manning, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015,
section 3.1, equations 7 and 8.
Deviations: a row without any valid position has α = 0 and c = 0, where the equation would divide zero by zero.
``dot`` asks for D = E. W is applied to the memory at every call, as it is usually written; a rewrite hoists it.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.errors import UsageError

SCORES = ("general", "dot")


class Luong(nn.Module):
    """Global attention over a masked memory.

    Args:
        query_size: D, width of the decoder state.
        memory_size: E, width of the encoder's annotations.
        score: ``general`` or ``dot``.

    Raises:
        UsageError: an unknown score, or ``dot`` with D ≠ E.
    """

    def __init__(self, query_size: int, memory_size: int, score: str = "general") -> None:
        super().__init__()
        if score not in SCORES:
            raise UsageError(f"unknown Luong score '{score}'", hint=f"known: {', '.join(SCORES)}")
        if score == "dot" and query_size != memory_size:
            raise UsageError(
                f"score 'dot' needs equal sizes, got query {query_size} and memory {memory_size}", hint="use 'general'"
            )
        self.project = nn.Linear(memory_size, query_size, bias=False) if score == "general" else nn.Identity()

    def forward(
        self, query: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Context ``(B, E)`` and weights ``(B, S)`` of query ``(B, D)``, memory ``(B, S, E)``, bool mask ``(B, S)``."""
        return self.attend(query, self.project(memory), memory, mask)

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``forward``, with the keys ``project(memory)`` ``(B, S, D)`` already made: training reuses them."""
        scores = torch.bmm(keys, query.unsqueeze(2)).squeeze(2)  # (B, S)
        scores = scores.masked_fill(~mask, float("-inf"))
        # softmax of a row that is all -inf is NaN: the second fill turns it into zeros.
        weights = torch.softmax(scores, dim=1).masked_fill(~mask, 0.0)
        context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)  # (B, E)
        return context, weights


BLOCK = Block(
    name="luong",
    kind="alignment",
    build=Luong,
    source="Luong et al., Effective Approaches to Attention-based NMT, EMNLP 2015, section 3.1, equations 7-8",
)
