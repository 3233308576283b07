"""The two-layer bottleneck that SE and CBAM's channel attention share."""

from __future__ import annotations

from torch import nn

from edgeattn.errors import UsageError


def bottleneck(channels: int, reduction: int, multiple: int = 1) -> nn.Sequential:
    """``Linear(C, hidden) -> ReLU -> Linear(hidden, C)``, both with biases; hidden is ``rounded(C // R, multiple)``.

    Raises:
        UsageError: channels, reduction or multiple is not positive.
    """
    if channels < 1 or reduction < 1:
        raise UsageError(
            f"channels={channels} and reduction={reduction} must both be positive",
            hint="a reduction ratio of 16 is the papers' choice",
        )
    hidden = rounded(channels // reduction, multiple)
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))


def rounded(width: int, multiple: int) -> int:
    """``width`` to the nearest multiple, the larger of two, at least one, and never more than a tenth below ``width``.

    Raises:
        UsageError: multiple is not positive.
    """
    if multiple < 1:
        raise UsageError(f"multiple={multiple} must be positive", hint="1 leaves the width as it is")
    nearest = max((width + multiple // 2) // multiple, 1) * multiple
    return nearest if 10 * nearest >= 9 * width else nearest + multiple
