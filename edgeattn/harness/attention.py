"""Attention compared: the same mask or alignment as PyTorch and as the engine compute it, for one real sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.report.evidence import AttentionFigure
from edgeattn.report.schema import AttentionReport

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays
    from edgeattn.tasks import Task


def spatial(
    image: Array, reference: Sequence[tuple[str, Array]], engine: Mapping[str, Array], order: Sequence[str]
) -> list[AttentionFigure]:
    """One figure per spatial mask.

    Args:
        image: ``(C, H, W)``, the input; the mean over C is drawn.
        reference: PyTorch's masks ``(module path, (1, 1, h, w))`` in the order they run.
        engine: the engine's masks by value name. order: those names in the order they run.

    Returns:
        Nothing when the two sides do not have the same number of masks: a pair that may be wrong is not drawn.
    """
    if len(reference) != len(order):
        return []
    return [
        AttentionFigure("spatial", f"{path}: spatial mask", mask[0, 0], engine[name][0, 0], image=image.mean(axis=0))
        for (path, mask), name in zip(reference, order, strict=True)
        if engine[name].shape == mask.shape
    ]


def alignment(
    feeds: Arrays, reference: Arrays, engine: Arrays, task: Task, output: str = "alignment"
) -> list[AttentionFigure]:
    """The alignment of the first sample, ``(T, S)``, when the program gives one and the task can label it."""
    if output not in reference or output not in engine or task.read is None:
        return []
    source, target = task.read(feeds, engine["tokens"])
    ours, theirs = (side[output][: len(target), 0, : len(source)] for side in (reference, engine))
    if ours.shape != theirs.shape or len(ours) != len(target):
        return []
    return [AttentionFigure("alignment", "alignment, target by source", ours, theirs, source=source, target=target)]


def agreement(figures: Sequence[AttentionFigure]) -> AttentionReport | None:
    """The figures in numbers; None without any.

    A map without contrast has no correlation: it counts as 1 where both sides are flat at the same height to a
    thousandth, else as 0.
    """
    if not figures:
        return None
    pairs = [(np.asarray(f.reference, np.float64), np.asarray(f.engine, np.float64)) for f in figures]
    correlations = [_correlation(a, b) for a, b in pairs]
    errors = np.concatenate([np.abs(a - b).ravel() for a, b in pairs])
    by_row = [f.kind == "alignment" for f in figures]
    rows = [
        (a, b) if as_is else (a.reshape(1, -1), b.reshape(1, -1)) for as_is, (a, b) in zip(by_row, pairs, strict=True)
    ]
    focus = np.concatenate([a.argmax(-1) == b.argmax(-1) for a, b in rows])
    worst = int(np.argmin(correlations))
    return AttentionReport(
        kind=figures[0].kind,
        maps=len(figures),
        correlation=correlations[worst],
        worst=figures[worst].title,
        mean_abs=float(errors.mean()),
        max_abs=float(errors.max()),
        same_focus=float(focus.mean()),
    )


def _correlation(a: Array, b: Array) -> float:
    spread = a.std() * b.std()
    if not spread:
        return float(np.abs(a - b).max() <= 1e-3)
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread)
