"""Where a token stands, as a vector that is added to its embedding; rotary positions are the ``mha`` block's own.

    sinusoidal   p(n)_{2i} = sin(n · θ_i), p(n)_{2i+1} = cos(n · θ_i), θ_i = 10000^(−2i/D)
    learned      p(n) = row n of a trained table                        n < N, p (N, D)

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.5.
Deviations: the sinusoids are a table too, made once in float64, so that every engine reads the same numbers and none
computes a sine; it is no part of the weights.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn.errors import UsageError

KINDS = ("learned", "sinusoidal", "rotary")


class Sinusoidal(nn.Module):
    """Positions ``(B, T)`` int64 below ``longest`` to their fixed vectors ``(B, T, D)``; D is even."""

    table: torch.Tensor

    def __init__(self, longest: int, width: int) -> None:
        super().__init__()
        if width % 2:
            raise UsageError(f"sinusoids come in pairs, but the width is {width}", hint="choose an even width")
        frequencies = torch.pow(10000.0, -torch.arange(0, width, 2, dtype=torch.float64) / width)
        angle = torch.arange(longest, dtype=torch.float64).unsqueeze(1) * frequencies  # (N, D/2)
        table = torch.stack((torch.sin(angle), torch.cos(angle)), 2).flatten(1)
        self.register_buffer("table", table.to(torch.get_default_dtype()), persistent=False)

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` to ``(B, T, D)``."""
        return nn.functional.embedding(positions, self.table)


class Learned(nn.Embedding):
    """Positions ``(B, T)`` int64 below ``longest`` to trained vectors ``(B, T, D)``."""

    def __init__(self, longest: int, width: int) -> None:
        super().__init__(longest, width)


def positions_of(kind: str, longest: int, width: int) -> nn.Module | None:
    """The module of a kind; None for ``rotary``, which adds nothing.

    Raises:
        UsageError: another kind.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown positions '{kind}'", where="positions", hint=f"one of: {', '.join(KINDS)}")
    if kind == "rotary":
        return None
    return Learned(longest, width) if kind == "learned" else Sinusoidal(longest, width)
