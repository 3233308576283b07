"""Luong's global attention: the decoder's present state scores every source position.

    e_s = hᵀ W h̄_s  (general)  or  hᵀ h̄_s  (dot)      h (B, D) query, h̄ (B, S, E) memory, W (D, E), e (B, S)
    e_s = vᵀ tanh(W_a [h; h̄_s])  (concat)              W_a (A, D + E), v (A), A = D unless ``hidden`` says otherwise
    α = softmax of e over the valid positions          α (B, S), 0 where the mask is False
    c = Σ_s α_s h̄_s                                    c (B, E)

Source: Luong, Pham, Manning, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015,
section 3.1, equations 7 and 8.
Deviations: a row without any valid position has α = 0 and c = 0, where the equation would divide zero by zero.
``dot`` asks for D = E. W is applied to the memory at every call, as it is usually written; a rewrite hoists it.
``concat`` likewise writes out [h; h̄_s] for every position; a rewrite splits it. The paper does not give A.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.blocks._masked import masked_softmax
from edgeattn.errors import UsageError

SCORES = ("general", "dot", "concat")


class Luong(nn.Module):
    """Global attention over a masked memory.

    Args:
        query_size: D, width of the decoder state.
        memory_size: E, width of the encoder's annotations.
        score: ``general``, ``dot`` or ``concat``.
        hidden: A, width of the concat score's tanh layer; D when not given.

    Raises:
        UsageError: an unknown score, ``dot`` with D ≠ E, or ``hidden`` where no layer has that width.
    """

    def __init__(self, query_size: int, memory_size: int, score: str = "general", hidden: int | None = None) -> None:
        super().__init__()
        if score not in SCORES:
            raise UsageError(f"unknown Luong score '{score}'", hint=f"known: {', '.join(SCORES)}")
        if score == "dot" and query_size != memory_size:
            raise UsageError(
                f"score 'dot' needs equal sizes, got query {query_size} and memory {memory_size}", hint="use 'general'"
            )
        if hidden is not None and (score != "concat" or hidden < 1):
            raise UsageError(
                f"hidden={hidden} does not fit score '{score}'", hint="a positive width, with 'concat' only"
            )
        self.project = nn.Linear(memory_size, query_size, bias=False) if score == "general" else nn.Identity()
        self.concat = score == "concat"
        if self.concat:
            width = hidden or query_size
            self.join = nn.Linear(query_size + memory_size, width, bias=False)
            self.v = nn.Linear(width, 1, bias=False)

    def forward(
        self, query: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Context ``(B, E)`` and weights ``(B, S)`` of query ``(B, D)``, memory ``(B, S, E)``, bool mask ``(B, S)``."""
        return self.attend(query, self.project(memory), memory, mask)

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``forward``, with the keys ``project(memory)`` already made: training reuses them.

        They are ``(B, S, D)`` for ``general``, and the memory itself for ``dot`` and ``concat``.
        """
        weights = self.weigh(query, keys, mask)
        context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)  # (B, E)
        return context, weights

    def weigh(self, query: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The weights ``(B, S)`` of keys as ``attend`` takes them."""
        return masked_softmax(self.scores(query, keys), mask)

    def scores(self, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """The scores e ``(B, S)``, of padding too."""
        if not self.concat:
            return torch.bmm(keys, query.unsqueeze(2)).squeeze(2)
        every = query.unsqueeze(1).expand(-1, keys.shape[1], -1)  # (B, S, D)
        scores: torch.Tensor = self.v(torch.tanh(self.join(torch.cat((every, keys), dim=2))))
        return scores.squeeze(2)


BLOCK = Block(
    name="luong",
    kind="alignment",
    build=Luong,
    source="Luong et al., Effective Approaches to Attention-based NMT, EMNLP 2015, section 3.1, equations 7-8",
)
