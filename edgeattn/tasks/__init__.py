"""Real data and its metric: one task, one file, one ``TASK``. numpy in, numpy out.

A task is known by the name of its file in this folder, or is a user's own file: ``path/to/file.py`` (or
``file.py:NAME``), which holds a ``TASK`` as the files here do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from edgeattn import registry, theirs
from edgeattn.errors import BadInput

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays


@dataclass(frozen=True)
class Batch:
    """Program inputs and what they should give.

    Attributes:
        feeds: program inputs by name.
        targets: with the batch on axis 0.
        tokens: ``(batch, steps)`` int64 to force on a wired program that is scored on given text; None lets it decode.
    """

    feeds: Arrays
    targets: Array
    tokens: Array | None = None


@dataclass(frozen=True)
class Metric:
    """How the scores of single samples become the figure a report states.

    Attributes:
        name: the report's word for it.
        unit: ``share`` (every score lies in [0, 1]; shown in percent), ``dB``, or nothing.
        higher_is_better: which way is worse.
        figure: mean of the samples' scores -> the figure; must be monotonic.
        unscorable: what a sample counts whose score is not finite: a bad one.
    """

    name: str
    unit: str = "share"
    higher_is_better: bool = True
    figure: Callable[[float], float] = float
    unscorable: float = 0.0

    def drop(self, reference: float, engine: float) -> float:
        """By how much the engine's figure is worse than the reference's, from the means of their scores."""
        worse = self.figure(reference) - self.figure(engine)
        return worse if self.higher_is_better else -worse


ACCURACY = Metric("accuracy")
EXACT_MATCH = Metric("exact_match")
PSNR = Metric("psnr", unit="dB")
# A sample's score is its mean negative log-likelihood a token, in nats; e^100 stands for "impossible".
PERPLEXITY = Metric("perplexity", unit="", higher_is_better=False, figure=math.exp, unscorable=100.0)
UNSCORED = Metric("none")


@dataclass(frozen=True)
class Task:
    """A dataset with a fixed split and a metric.

    Attributes:
        name: the file stem.
        metric: what ``score`` gives and how it is summed up; ``UNSCORED`` where there is nothing to score.
        train: ``train(samples, batch) -> Iterator[Batch]`` over the training split, in a fixed order.
        test: ``test(samples, batch) -> Iterator[Batch]`` over the held-out split; ``samples=None`` is all of it.
        score: ``score(outputs, targets) -> (batch,)`` float64, a score per sample.
        assets: files an app needs beside the engine (labels, vocabulary), name -> bytes.
        read: ``read(feeds, tokens) -> (source, target)``: the first sample's symbols, to label an alignment.
        predict: ``predict(outputs, batch) -> list``: one comparable prediction a sample, for ``agreement``; None takes
            decoded tokens or the argmax of the logits, an empty list says that there is nothing to compare.
        also: further figures to report beside the metric, name -> a function like ``score``; their means are reported.
        about: one line for ``edgeattn list tasks``.
    """

    name: str
    metric: Metric
    train: Callable[[int | None, int], Iterator[Batch]]
    test: Callable[[int | None, int], Iterator[Batch]]
    score: Callable[[Arrays, Array], Array]
    assets: Callable[[], Mapping[str, bytes]]
    read: Callable[[Arrays, Array], tuple[tuple[str, ...], tuple[str, ...]]] | None = None
    about: str = ""
    predict: Callable[[Arrays, int], list[Hashable]] | None = None
    also: Mapping[str, Callable[[Arrays, Array], Array]] = field(default_factory=dict)


def find(name: str) -> Task:
    """A task by its name, or a user's own from ``path/to/file.py``, where it is ``TASK``, or ``file.py:NAME``.

    Raises:
        UnknownName, UsageError: no such task, file, or object in it. BadInput: not a Task. A user's task raises
            BadInput with the line in their file whenever their code fails, and when its loader does not give batches.
    """
    if not theirs.is_file(name):
        task: Task = registry.get("tasks", name)
        return task
    return sound(theirs.load(name, "task", "TASK", lambda value: isinstance(value, Task)), name)


def sound(found: object, name: str) -> Task:
    """A user's task, held to what a task has; ``name`` is where it was found. Raises as :func:`find` does."""
    if not isinstance(found, Task):
        hint = "make it an edgeattn.tasks.Task"
        raise BadInput(
            f"'{theirs.split(name, 'TASK')[1]}' is {type(found).__name__}, not a Task", where=name, hint=hint
        )
    for part in ("metric", "train", "test", "score", "assets"):
        value = getattr(found, part)
        if not (isinstance(value, Metric) if part == "metric" else callable(value)):
            hint = f"give a {'Metric' if part == 'metric' else 'function'}, such as tasks/digits.py has"
            raise BadInput(f"its {part} is {type(value).__name__}", where=name, hint=hint)
    return _guarded(found, name)


def _guarded(task: Task, where: str) -> Task:
    """A user's task whose own code fails at its own line."""

    def guarded(call: Callable[..., Any], doing: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with theirs.told(where, doing):
                return call(*args)

        return run

    def loader(call: Callable[[int | None, int], Iterator[Batch]], part: str) -> Callable[..., Iterator[Batch]]:
        def run(samples: int | None, batch: int) -> Iterator[Batch]:
            with theirs.told(where, f"in {part}()"):
                batches = iter(call(samples, batch))
            while True:
                with theirs.told(where, f"in {part}()"):
                    found = next(batches, None)
                if found is None:
                    return
                yield _sound(found, f"{where}: {part}()")

        return run

    return replace(
        task,
        train=loader(task.train, "train"),
        test=loader(task.test, "test"),
        score=guarded(task.score, "in score()"),
        assets=guarded(task.assets, "in assets()"),
        read=guarded(task.read, "in read()") if task.read else None,
        predict=guarded(task.predict, "in predict()") if task.predict else None,
        also={name: guarded(call, f"in {name}()") for name, call in task.also.items()},
    )


def _sound(found: Any, where: str) -> Batch:
    if not isinstance(found, Batch):
        hint = "yield Batch(feeds={input: array}, targets=array)"
        raise BadInput(f"gives {type(found).__name__}, not a Batch", where=where, hint=hint)
    for name, value in found.feeds.items():
        if not hasattr(value, "dtype") or not hasattr(value, "astype"):
            raise BadInput(f"feeds '{name}' with {type(value).__name__}", where=where, hint="feed numpy arrays")
        if len(value) != len(found.targets):
            counts = f"{len(value)} samples of '{name}' and {len(found.targets)} targets"
            raise BadInput(f"gives {counts}", where=where, hint="axis 0 counts the samples in both")
    return found
