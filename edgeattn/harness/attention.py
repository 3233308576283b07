"""Pictures of attention: the same mask or alignment as PyTorch and as the engine compute it, for one real sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgeattn.report.evidence import AttentionFigure

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
