"""Latent cross-attention: a few learned latents read a long memory, at a cost that grows with its length alone.

    y = l + A(LN(l), LN(m))         l (N, D) learned, one for all rows; m (B, S, E) memory; y (B, N, D)
    A = W_O [α_1 V_1; …; α_H V_H]   the card of ``mha``: queries from LN(l), keys and values from LN(m), maps with
                                    biases, all heads together as wide as E; α (B, H, N, S), 0 where the mask is False
    read again: y = x + A(LN(x), LN(m)), with x (B, N, D) what the latents have become since

Source: Jaegle et al., "Perceiver: General Perception with Iterative Attention", ICML 2021, section 3.1 (cross-attention
from a byte array to a latent array; LayerNorm before it and the residual sum as in its figure 1 and appendix).
Deviations: a row without any valid position has α = 0 and y = l + b_O, where softmax would divide zero by zero; the
paper's inputs have no padding. LayerNorm ε = 1e-5, which the paper does not give. The dense layers that follow the
attention are not part of the block. ``inner`` gives the heads another width than E.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.blocks.mha import Mha


class CrossAttention(nn.Module):
    """``x + A(LN(x), LN(m))``: what reads the memory, without the learned array.

    Args:
        memory_size: E. width: D. heads: H. inner: I, width of all heads together; E when not given.

    Raises:
        UsageError: I does not split into the heads.
    """

    def __init__(self, memory_size: int, width: int, heads: int = 1, inner: int | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.memory_norm = nn.LayerNorm(memory_size)
        inner = memory_size if inner is None else inner
        self.attention = Mha(width, memory_size, heads=heads, bias=True, inner=inner)

    def forward(
        self, x: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Result ``(B, N, D)`` and weights ``(B, H, N, S)`` of latents ``(B, N, D)``, memory ``(B, S, E)`` and bool
        mask ``(B, S)`` that is True at valid positions (None: all are).
        """
        read, weights = self.attention(self.norm(x), self.memory_norm(memory), mask)
        return x + read, weights


class Latent(nn.Module):
    """A learned latent array that reads a masked memory.

    Args:
        memory_size: E. latents: N. width: D. heads: H. inner: I, width of all heads together; E when not given.

    Raises:
        UsageError: I does not split into the heads.
    """

    def __init__(
        self, memory_size: int, latents: int = 32, width: int = 64, heads: int = 1, inner: int | None = None
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(latents, width))
        nn.init.trunc_normal_(self.latents, std=0.02)  # cut at ±2, as in the paper's appendix
        self.cross = CrossAttention(memory_size, width, heads, inner)

    def forward(self, memory: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Result ``(B, N, D)`` and weights ``(B, H, N, S)`` of memory ``(B, S, E)`` and bool mask ``(B, S)`` that is
        True at valid positions (None: all are).
        """
        # Not expanded to the batch: the queries stay constants of the graph, and broadcast where they meet the keys.
        result: tuple[torch.Tensor, torch.Tensor] = self.cross(self.latents.unsqueeze(0), memory, mask)
        return result


BLOCK = Block(
    name="latent",
    kind="latent",
    build=Latent,
    source="Jaegle et al., Perceiver: General Perception with Iterative Attention, ICML 2021, section 3.1",
)
