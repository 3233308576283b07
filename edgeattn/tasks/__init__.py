"""Real data and its metric: one task, one file, one ``TASK``. numpy in, numpy out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays


@dataclass(frozen=True)
class Batch:
    """Program inputs and what they should give: ``feeds`` by name, ``targets`` with the batch on axis 0."""

    feeds: Arrays
    targets: Array


@dataclass(frozen=True)
class Task:
    """A dataset with a fixed split and a metric.

    Attributes:
        name: the file stem.
        metric: ``accuracy`` or ``exact_match``; higher is better, each sample scores in [0, 1].
        train: ``train(samples, batch) -> Iterator[Batch]`` over the training split, in a fixed order.
        test: ``test(samples, batch) -> Iterator[Batch]`` over the held-out split; ``samples=None`` is all of it.
        score: ``score(outputs, targets) -> (batch,)`` float64, a score per sample.
        assets: files an app needs beside the engine (labels, vocabulary), name -> bytes.
        read: ``read(feeds, tokens) -> (source, target)``: the first sample's symbols, to label an alignment.
        about: one line for ``edgeattn list tasks``.
    """

    name: str
    metric: str
    train: Callable[[int | None, int], Iterator[Batch]]
    test: Callable[[int | None, int], Iterator[Batch]]
    score: Callable[[Arrays, Array], Array]
    assets: Callable[[], Mapping[str, bytes]]
    read: Callable[[Arrays, Array], tuple[tuple[str, ...], tuple[str, ...]]] | None = None
    about: str = ""
