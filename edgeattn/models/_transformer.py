"""What the transformers share: the feed-forward network, and a layer of self-attention with it.

    pre-norm    x ← x + A(N₁(x));  x ← x + F(N₂(x))           as in GPT-2, ViT and the Perceiver
    post-norm   x ← N₁(x + A(x));  x ← N₂(x + F(x))           as published, and in BERT
    F(x) = W₂ gelu(W₁ x + b₁) + b₂                            x (B, T, D), W₁ (M, D), W₂ (D, M)

A decoder calls ``cached`` instead of ``forward``: it attends to the keys and values of earlier calls too, and gives
back all it attended to, for the next call.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.1 and equation 2; GELU: Hendrycks, Gimpel,
2016; pre-norm: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgeattn import registry

Cache = tuple[torch.Tensor, torch.Tensor]
"""Keys and values ``(B, G, P, d)`` of the positions that came before."""


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them; ``approximate="tanh"`` is GPT-2's."""

    def __init__(self, width: int, hidden: int, approximate: str = "none") -> None:
        super().__init__()
        self.widen = nn.Linear(width, hidden)
        self.gelu = nn.GELU(approximate)
        self.narrow = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, T, D)`` to the same shape."""
        y: torch.Tensor = self.narrow(self.gelu(self.widen(x)))
        return y


class Layer(nn.Module):
    """Self-attention and feed-forward network with residual sums.

    Args:
        width: D. heads: H. hidden: M.
        post_norm: normalise after each sum instead of before each branch.
        eps: of the LayerNorms. approximate: of the GELU.
        attention: further options of the ``mha`` block: ``kv_heads``, ``causal``, ``rotary``.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        post_norm: bool = False,
        eps: float = 1e-5,
        approximate: str = "none",
        **attention: Any,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.attention = registry.get("blocks", "mha").build(width, width, heads=heads, bias=True, **attention)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.feed_forward = FeedForward(width, hidden, approximate)
        self.feed_forward_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """``(B, T, D)`` and the bool mask ``(B, T)`` of valid positions (None: all are) to ``(B, T, D)``."""
        z = self._before(x)
        attended, _ = self.attention(z, z, mask)
        return self._after(x, attended)

    def cached(
        self, x: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor, past: Cache | None = None
    ) -> tuple[torch.Tensor, Cache]:
        """New positions after those in a cache.

        Args:
            x: ``(B, N, D)``. positions: ``(B, N)``, where each stands in its sequence.
            visible: bool, broadcast to ``(B, 1, N, P + N)``: which of the past and of themselves they may see.
            past: keys and values ``(B, G, P, d)`` of earlier calls.

        Returns:
            ``(B, N, D)``, and keys and values ``(B, G, P + N, d)``.
        """
        z = self._before(x)
        keys, values = self.attention.project(z, positions)
        if past is not None:
            keys, values = torch.cat((past[0], keys), 2), torch.cat((past[1], values), 2)
        attended, _ = self.attention.attend(z, keys, values, visible, positions)
        return self._after(x, attended), (keys, values)

    def _before(self, x: torch.Tensor) -> torch.Tensor:
        """What the attention reads."""
        if self.post_norm:
            return x
        z: torch.Tensor = self.attention_norm(x)
        return z

    def _after(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Both residual sums, once the attention has spoken."""
        x = x + attended
        if self.post_norm:
            x = self.attention_norm(x)
            y: torch.Tensor = self.feed_forward_norm(x + self.feed_forward(x))
        else:
            y = x + self.feed_forward(self.feed_forward_norm(x))
        return y


def initialise(net: nn.Module) -> None:
    """Xavier's uniform weights and zero biases for every linear map, from the global stream."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
