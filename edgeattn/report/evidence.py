"""Raw evidence kept beside the report: latency samples and attention maps, in one ``samples.npz``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edgeattn.program import Array


@dataclass(frozen=True)
class RawSamples:
    """Milliseconds per call, one entry per round; the three columns were timed in the same rounds.

    Attributes:
        reference_ms, engine_ms: ``(rounds,)`` float64.
        control_ms: ``(rounds,)`` the engine a second time in the round (A/A control).
    """

    reference_ms: Array
    engine_ms: Array
    control_ms: Array


@dataclass(frozen=True)
class AttentionFigure:
    """One sample's attention as PyTorch and as the engine see it.

    Attributes:
        kind: ``spatial`` (a mask over an image) or ``alignment`` (target by source).
        title: one line, e.g. ``layer3, CBAM spatial mask``.
        reference, engine: ``spatial`` masks ``(h, w)``; ``alignment`` weights ``(T, S)``.
        image: ``(H, W)``, the input of a ``spatial`` figure.
        source, target: the ``S`` and ``T`` tokens of an ``alignment`` figure.
    """

    kind: Literal["spatial", "alignment"]
    title: str
    reference: Array
    engine: Array
    image: Array | None = None
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
