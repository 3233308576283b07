"""Multi-head attention: self, cross or causal, with padding, grouped queries and rotary positions.

    Q = W_Q x, K = W_K m, V = W_V m              x (B, T, D) query, m (B, S, E) memory; heads of width d = I / H:
                                                 Q (B, H, T, d), K and V (B, G, S, d)
    α_h = softmax of Q_h K_gᵀ / √d over what     α (B, H, T, S), 0 where the mask is False and, causal, where s > t;
          position t may see                     head h reads group g = ⌊h · G / H⌋
    y = W_O [α_1 V_g(1); …; α_H V_g(H)]          y (B, T, D)
    rotary: pair i of Q at t and of K at s is turned by the angles t · θ_i and s · θ_i, θ_i = 10000^(−2i/d)

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, sections 3.2.1 and 3.2.2, equation 1. Groups:
Ainslie et al., "GQA", EMNLP 2023, section 2.2. Rotary: Su et al., "RoFormer", 2021, section 3.2.2, equations 15, 34.
Deviations: a row that may see nothing has α = 0, so its heads are 0, where the equation would divide zero by zero. The
maps have no biases, as in the paper; ``bias=True`` gives all four one. I, the width of all heads together, is D as in
the paper unless ``inner`` says otherwise. Causal counts both sequences from 0, also where T ≠ S. Rotary turns the pairs
(2i, 2i + 1) as the paper does; many checkpoints turn (i, i + d/2), which is the same after a permutation of W_Q's and
W_K's rows.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from edgeattn.blocks import Block
from edgeattn.blocks._masked import masked_softmax
from edgeattn.errors import UsageError


class Mha(nn.Module):
    """Multi-head attention over a masked memory; self-attention is ``block(x, x, mask)``.

    Args:
        query_size: D, width of the queries and of the result.
        memory_size: E, width of the memory.
        heads: H. kv_heads: G, heads of K and V, each read by H / G query heads; H when not given.
        causal: position t sees no position after t. rotary: turn queries and keys by their positions.
        bias: whether the four linear maps have biases.
        inner: I, width of all heads together; D when not given.

    Raises:
        UsageError: I does not split into the heads, the heads not into the groups, or rotary heads of odd width.
    """

    frequencies: torch.Tensor

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        heads: int = 8,
        kv_heads: int | None = None,
        causal: bool = False,
        rotary: bool = False,
        bias: bool = False,
        inner: int | None = None,
    ) -> None:
        super().__init__()
        groups = heads if kv_heads is None else kv_heads
        inner = query_size if inner is None else inner
        _check(inner, heads, groups, rotary)
        self.heads, self.groups, self.causal, self.rotary = heads, groups, causal, rotary
        self.width = inner // heads
        self.query = nn.Linear(query_size, inner, bias=bias)
        self.key = nn.Linear(memory_size, groups * self.width, bias=bias)
        self.value = nn.Linear(memory_size, groups * self.width, bias=bias)
        self.output = nn.Linear(inner, query_size, bias=bias)
        if rotary:
            pairs = torch.arange(self.width // 2, dtype=torch.float64)
            frequencies = torch.pow(10000.0, -2 * pairs / self.width).to(self.query.weight.dtype)
            self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(
        self, query: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Result ``(B, T, D)`` and weights ``(B, H, T, S)`` of query ``(B, T, D)``, memory ``(B, S, E)``, bool mask
        ``(B, S)`` that is True at valid memory positions; None says that all are, and masks nothing in the graph.
        """
        keys, values = self.project(memory)
        return self.attend(query, keys, values, self._visible(mask, query, memory))

    def project(self, memory: torch.Tensor, positions: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values ``(B, G, S, d)`` of memory ``(B, S, E)``: what a cache keeps of it.

        ``positions`` ``(B, S)``, which rotary keys are turned by, count from 0 when not given.
        """
        k, v = self._split(self.key(memory), self.groups), self._split(self.value(memory), self.groups)
        return self._turn(k, positions), v

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        visible: torch.Tensor | None,
        positions: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Result ``(B, T, D)`` and weights ``(B, H, T, S)`` of query ``(B, T, D)`` over projected keys and values.

        Args:
            query: ``(B, T, D)``. keys, values: ``(B, G, S, d)``, see :meth:`project`.
            visible: bool, broadcast to ``(B, H, T, S)``, True where a query may see a key; None is everywhere.
                It decides alone: ``causal`` plays no part.
            positions: ``(B, T)`` of the queries, which rotary ones are turned by; they count from 0 when not given.
        """
        q = self._turn(self._split(self.query(query), self.heads), positions)
        # The heads of a group stand one below the other as queries, so that no key or value is copied for each.
        scores = torch.matmul(self._gather(q), keys.transpose(2, 3)) / math.sqrt(self.width)
        scores = self._scatter(scores)  # (B, H, T, S)
        weights = torch.softmax(scores, dim=3) if visible is None else masked_softmax(scores, visible)
        heads = self._scatter(torch.matmul(self._gather(weights), values))  # (B, H, T, d)
        output: torch.Tensor = self.output(heads.transpose(1, 2).flatten(2))
        return output, weights

    def _split(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        """``(B, N, heads · d)`` to ``(B, heads, N, d)``."""
        return torch.unflatten(x, 2, (heads, self.width)).transpose(1, 2)

    def _gather(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, H, T, n)`` to ``(B, G, H/G · T, n)``: the rows of all heads that read one group."""
        if self.groups == self.heads:
            return x
        return torch.unflatten(x, 1, (self.groups, self.heads // self.groups)).flatten(2, 3)

    def _scatter(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, G, H/G · T, n)`` back to ``(B, H, T, n)``."""
        if self.groups == self.heads:
            return x
        return torch.unflatten(x, 2, (self.heads // self.groups, -1)).flatten(1, 2)

    def _turn(self, x: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        """Rotate every pair of ``(B, heads, N, d)`` by the angle of its position ``(B, N)``, if rotary."""
        if not self.rotary:
            return x
        if positions is None:
            positions = torch.arange(x.shape[2], device=x.device)
        angle = positions.to(x.dtype).unsqueeze(-1) * self.frequencies  # (B, N, d/2) or (N, d/2)
        cos, sin = torch.cos(angle).unsqueeze(-3), torch.sin(angle).unsqueeze(-3)
        even, odd = torch.unflatten(x, 3, (self.width // 2, 2)).unbind(4)  # (B, heads, N, d/2) each
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=4).flatten(3)

    def _visible(self, mask: torch.Tensor | None, query: torch.Tensor, memory: torch.Tensor) -> torch.Tensor | None:
        """What each query position may see, ``(B, 1, 1, S)`` or, causal, ``(B, 1, T, S)``; None is everything."""
        visible = None if mask is None else mask.unsqueeze(1).unsqueeze(2)
        if not self.causal:
            return visible
        t, s = (torch.arange(x.shape[1], device=x.device) for x in (query, memory))
        past = s <= t.unsqueeze(1)
        return past if visible is None else visible & past


def _check(inner: int, heads: int, groups: int, rotary: bool) -> None:
    if min(inner, heads, groups) < 1 or inner % heads or heads % groups:
        raise UsageError(
            f"width {inner}, {heads} heads and {groups} key/value heads do not divide",
            hint="the width must be a multiple of heads, and heads a multiple of kv_heads",
        )
    if rotary and (inner // heads) % 2:
        raise UsageError(f"rotary positions turn pairs, but a head is {inner // heads} wide", hint="choose fewer heads")


BLOCK = Block(
    name="mha",
    kind="multi-head",
    build=Mha,
    source="Vaswani et al., Attention Is All You Need, NeurIPS 2017, sections 3.2.1-3.2.2, equation 1",
)
