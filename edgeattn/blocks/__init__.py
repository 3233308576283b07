"""Attention mechanisms as PyTorch modules: one mechanism, one file, one ``BLOCK``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Block:
    """One attention mechanism.

    Attributes:
        name: the file stem.
        kind: ``channel``, ``spatial``, ``channel+spatial``, ``alignment`` (one query; its weights sum to 1),
            ``local alignment`` (one query; its weights sum to at most 1), ``multi-head`` (a sequence of queries) or
            ``latent`` (learned queries: it is called with memory and mask alone).
        build: ``build(channels, **options) -> nn.Module``; alignment and multi-head blocks take
            ``(query_size, memory_size, **options)``, multi-head ones the options ``heads``, ``kv_heads``, ``causal``;
            latent blocks take ``(memory_size, **options)`` and the options ``latents``, ``width``, ``heads``.
        source: paper, section, URL-free.
        residual: the features are kept beside their gating, ``x + mask ⊙ x``: they are scaled by 1 to 2, not by 0 to 1.
    """

    name: str
    kind: str
    build: Callable[..., Any]
    source: str
    residual: bool = False

    @property
    def gates(self) -> bool:
        """Whether it weighs a feature map ``(B, C, H, W)``, as a network's attention must, and attends to no memory."""
        return self.kind in ("channel", "spatial", "channel+spatial")
