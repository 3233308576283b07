"""What the transformers share: the feed-forward network, and a layer of self-attention with it.

    pre-norm    x ← x + A(N₁(x));  x ← x + F(N₂(x))           as in GPT-2, ViT and the Perceiver
    post-norm   x ← N₁(x + A(x));  x ← N₂(x + F(x))           as published, and in BERT
    F(x) = W₂ gelu(W₁ x + b₁) + b₂                            x (B, T, D), W₁ (M, D), W₂ (D, M)

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.1 and equation 2; GELU: Hendrycks, Gimpel,
2016; pre-norm: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from edgeattn import registry


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

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """``(B, T, D)`` and the bool mask ``(B, T)`` of valid positions to ``(B, T, D)``."""
        if self.post_norm:
            x = self.attention_norm(x + self.attention(x, x, mask)[0])
            y: torch.Tensor = self.feed_forward_norm(x + self.feed_forward(x))
            return y
        z = self.attention_norm(x)
        x = x + self.attention(z, z, mask)[0]
        summed: torch.Tensor = x + self.feed_forward(self.feed_forward_norm(x))
        return summed
