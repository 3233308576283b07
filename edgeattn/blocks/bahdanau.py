"""Bahdanau's additive attention: the decoder's previous state scores every annotation.

    e_j = vᵀ tanh(W s + U h_j)                     s (B, D) query s_{i−1}, h (B, S, E) memory, W (A, D), U (A, E),
                                                   v (A), e (B, S), A = D unless ``hidden`` says otherwise
    α = softmax of e over the valid positions      α (B, S), 0 where the mask is False
    c = Σ_j α_j h_j                                c (B, E)

Source: Bahdanau, Cho, Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate", ICLR 2015,
section 3.1, equations 5 and 6, and the alignment model of appendix A.1.2.
Deviations: a row without any valid position has α = 0 and c = 0, where the equation would divide zero by zero.
W and U have no biases, as in the appendix; ``bias=True`` gives both one, as many tutorials do. U is applied to the
memory at every call, though it does not depend on the step, as the paper remarks; a rewrite hoists it.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.blocks._masked import masked_softmax
from edgeattn.errors import UsageError


class Bahdanau(nn.Module):
    """Additive attention over a masked memory.

    Args:
        query_size: D, width of the decoder state.
        memory_size: E, width of the encoder's annotations.
        hidden: A, width of the tanh layer; D when not given.
        bias: whether W and U have biases.

    Raises:
        UsageError: a hidden width that is not positive.
    """

    def __init__(self, query_size: int, memory_size: int, hidden: int | None = None, bias: bool = False) -> None:
        super().__init__()
        width = query_size if hidden is None else hidden
        if width < 1:
            raise UsageError(f"hidden={hidden} must be positive", hint="the paper uses the decoder state's width")
        self.query = nn.Linear(query_size, width, bias=bias)
        self.project = nn.Linear(memory_size, width, bias=bias)
        self.v = nn.Linear(width, 1, bias=False)

    def forward(
        self, query: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Context ``(B, E)`` and weights ``(B, S)`` of the previous state ``(B, D)``, memory ``(B, S, E)``, bool mask
        ``(B, S)``.
        """
        return self.attend(query, self.project(memory), memory, mask)

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``forward``, with the keys ``project(memory)`` ``(B, S, A)`` already made: training reuses them."""
        scores = self.v(torch.tanh(self.query(query).unsqueeze(1) + keys)).squeeze(2)  # (B, S)
        weights = masked_softmax(scores, mask)
        context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)  # (B, E)
        return context, weights


BLOCK = Block(
    name="bahdanau",
    kind="alignment",
    build=Bahdanau,
    source="Bahdanau et al., NMT by Jointly Learning to Align and Translate, ICLR 2015, section 3.1 and appendix A.1.2",
)
