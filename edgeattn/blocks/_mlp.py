"""The two-layer bottleneck that SE and CBAM's channel attention share."""

from __future__ import annotations

from torch import nn

from edgeattn.errors import UsageError


def bottleneck(channels: int, reduction: int) -> nn.Sequential:
    """``Linear(C, C/R) -> ReLU -> Linear(C/R, C)``, both with biases.

    The hidden width is ``max(channels // reduction, 1)``, so that narrow layers keep at least one hidden unit.

    Raises:
        UsageError: channels or reduction is not positive.
    """
    if channels < 1 or reduction < 1:
        raise UsageError(
            f"channels={channels} and reduction={reduction} must both be positive",
            hint="a reduction ratio of 16 is the papers' choice",
        )
    hidden = max(channels // reduction, 1)
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
