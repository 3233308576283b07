"""Luong's local attention with a predicted position (local-p): a window of the source, brightest at its centre.

    p = S · σ(v_pᵀ tanh(W_p h))                         h (B, D) query, W_p (D, D), v_p (D), p (B), S valid length
    α_s = softmax of e over the valid s, |s − p| ≤ R    e (B, S) any score of ``luong``, R the window's radius
    α'_s = α_s · exp(−(s − p)² / (2σ²)), σ = R / 2      α' (B, S), 0 where the mask is False or s is outside
    c = Σ_s α'_s h̄_s                                    h̄ (B, S, E) memory, c (B, E)

Source: Luong, Pham, Manning, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015,
section 3.2, equations 9 and 10; R is the paper's D, 10 in its experiments.
Deviations: positions count from 0, and the mask is taken to be True on a prefix of each row, so that S is how often
it is True. The window is a mask over all positions, where the paper cuts it out: engines need no dynamic slice, and
the cost is that of global attention. A row without any valid position has α' = 0 and c = 0. As in the paper, α' is
not normalised again, so its sum is at most 1, and the window ends in a step: where p ± R falls within rounding of a
position, two engines may disagree whether it is inside, by a weight of at most e⁻² = 0.14.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.blocks.luong import Luong
from edgeattn.errors import UsageError


class LuongLocal(Luong):
    """Local-p attention over a masked memory; the parameters it shares with ``Luong`` carry the same names.

    Args:
        query_size: D, width of the decoder state.
        memory_size: E, width of the encoder's annotations.
        score: ``general``, ``dot`` or ``concat``.
        window: R, how many positions to either side are seen.
        hidden: width of the concat score's tanh layer; D when not given.

    Raises:
        UsageError: as ``Luong`` does, or a window below 1, which may hold no position.
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        score: str = "general",
        window: float = 10,
        hidden: int | None = None,
    ) -> None:
        super().__init__(query_size, memory_size, score, hidden)
        if not window >= 1:
            raise UsageError(f"window={window} must be at least 1", hint="the paper uses 10")
        self.window = float(window)
        self.locate = nn.Sequential(
            nn.Linear(query_size, query_size, bias=False), nn.Tanh(), nn.Linear(query_size, 1, bias=False), nn.Sigmoid()
        )

    def weigh(self, query: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The weights ``(B, S)`` of keys as ``attend`` takes them; their sum is at most 1."""
        length = mask.long().sum(1, keepdim=True).to(query.dtype)  # (B, 1)
        position = torch.arange(mask.shape[1], dtype=query.dtype, device=query.device)  # (S,)
        distance = position - length * self.locate(query)  # (B, S)
        inside = mask & (distance.abs() <= self.window)
        sigma = self.window / 2
        return super().weigh(query, keys, inside) * torch.exp(-(distance / sigma).square() / 2)


BLOCK = Block(
    name="luong_local",
    kind="local alignment",
    build=LuongLocal,
    source="Luong et al., Effective Approaches to Attention-based NMT, EMNLP 2015, section 3.2, equations 9-10",
)
