"""Task accuracy: does the engine still do the job on real, held-out data?

PyTorch and the engine score the same samples, so the drop is a mean of paired differences and its interval is that of
the pairs: samples both get right or wrong alike say nothing about the drop and widen nothing.

The interval is a Bayesian bootstrap (Rubin 1981) of the paired differences with one full-point loss and one full-point
gain added. The two added pairs vanish in a large sample and keep a small one honest: without a single discordant pair
an ordinary bootstrap says [0, 0], this one says ±3/n, the rule of three.

Scores without bounds (decibels, log-likelihoods) have no full point to add: their interval is the same bootstrap over
the samples themselves, of the difference of the two figures.

Verdict for a limit on the drop: ``pass`` when the whole interval is within it, ``fail`` when the whole interval is
past it, else ``inconclusive``: the sample is too small to say, and ``why`` tells how many samples could.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.errors import BadInput
from edgeattn.report.schema import Pair, SectionVerdict, TaskReport

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays
    from edgeattn.tasks import Batch, Metric, Task

RESAMPLES = 10_000


@dataclass(frozen=True)
class Scored:
    """A model on a task: ``scores`` ``(n,)`` float64, what it predicted for each sample, means of further figures."""

    scores: Array
    predictions: tuple[Hashable, ...]
    also: Mapping[str, float] = field(default_factory=dict)


def scores(
    run: Callable[[Batch], Arrays],
    task: Task,
    samples: int | None,
    batch: int,
    progress: Callable[[int, int | None], None] | None = None,
) -> Scored:
    """Score a program on the task's held-out split.

    Args:
        run: a batch's feeds (and forced tokens) to program outputs.
        samples: how many samples, None for all. batch: samples per call.
        progress: called with (samples done, samples in all or None).

    Raises:
        BadInput: the task has no samples, or its scores do not fit its batches.
    """
    found: list[Array] = []
    predicted: list[Hashable] = []
    also: dict[str, list[Array]] = {name: [] for name in task.also}
    done = 0
    for part in task.test(samples, batch):
        outputs = run(part)
        got = np.asarray(_asked(task.score, task, outputs, part.targets), np.float64)
        if got.shape != (len(part.targets),):
            raise BadInput(f"scores have shape {got.shape} for {len(part.targets)} samples", where=f"task {task.name}")
        # A prediction that cannot be scored is a wrong one.
        found.append(np.where(np.isfinite(got), got, task.metric.unscorable))
        predicted += (task.predict or predictions)(outputs, len(part.targets))
        for name, figure in task.also.items():
            also[name].append(_asked(figure, task, outputs, part.targets))
        done += len(got)
        if progress is not None:
            progress(done, samples)
    if not done:
        raise BadInput("has no test samples", where=f"task {task.name}", hint="ask for at least one sample")
    means = {name: float(np.concatenate(values).mean()) for name, values in also.items()}
    return Scored(np.concatenate(found), tuple(predicted), means)


def _asked(figure: Callable[[Arrays, Array], Array], task: Task, outputs: Arrays, targets: Array) -> Array:
    """What a task makes of some outputs; one that it looks for in vain is named."""
    try:
        return figure(outputs, targets)
    except (KeyError, BadInput) as error:  # a user's task tells its own line, as a BadInput
        sought = error if isinstance(error, KeyError) else error.__cause__
        if not isinstance(sought, KeyError) or sought.args[0] in outputs:
            raise
        raise BadInput(
            f"scores the output {sought}, which this model does not have",
            where=error.where if isinstance(error, BadInput) else f"task {task.name}",
            hint=f"it has {', '.join(outputs)}; an edgeattn Source names its outputs as you like",
        ) from error


def predictions(outputs: Arrays, count: int) -> list[Hashable]:
    """One comparable prediction per sample.

    Decoded ``tokens`` ``(batch, steps)`` where there are any; else the argmax over the last axis of ``logits``, or of
    the first output that has the batch on axis 0.
    """
    if "tokens" in outputs:
        return [_ended(row) for row in np.asarray(outputs["tokens"]).tolist()]
    fitting = [k for k, v in outputs.items() if np.ndim(v) >= 2 and len(v) == count]
    if not fitting:
        raise BadInput(f"no output has {count} samples on axis 0", hint=f"outputs: {', '.join(outputs) or 'none'}")
    chosen = np.asarray(outputs["logits" if "logits" in fitting else fitting[0]]).argmax(-1)
    return [_hashable(row) for row in chosen.tolist()]


def compare(task: Task, reference: Scored, engine: Scored, max_drop: float | None, seed: int = 0) -> TaskReport:
    """The task section: both metrics, the drop with its 95 % interval, agreement, and the verdict for ``max_drop``.

    Args:
        max_drop: largest absolute drop of the metric allowed; None judges nothing (``n/a``).
    """
    if len(reference.scores) != len(engine.scores):
        raise BadInput(
            f"{len(reference.scores)} reference scores and {len(engine.scores)} engine scores",
            where=f"task {task.name}",
        )
    metric = task.metric
    drops = reference.scores - engine.scores
    bounded = metric.unit == "share"
    low, high = drop_interval(drops, seed) if bounded else figure_interval(metric, reference, engine, seed)
    verdict, why = _judge(high, low, max_drop, drops, bounded)
    same = [a == b for a, b in zip(reference.predictions, engine.predictions, strict=True)]
    means = float(reference.scores.mean()), float(engine.scores.mean())
    return TaskReport(
        name=task.name,
        metric=metric.name,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        samples=len(drops),
        reference=metric.figure(means[0]),
        engine=metric.figure(means[1]),
        drop=metric.drop(*means),
        ci95=(low, high),
        agreement=sum(same) / len(same) if same else None,
        also={name: Pair(reference=reference.also[name], engine=engine.also[name]) for name in task.also},
        limit=max_drop,
        verdict=verdict,
        why=why,
    )


def drop_interval(drops: Array, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of paired differences ``(n,)`` in [−1, 1]; see the head of this file."""
    values, counts = np.unique(np.append(drops, [-1.0, 1.0]), return_counts=True)
    # Equal differences share a weight: a Dirichlet over distinct values is the same draw, at a fraction of the cost.
    rows = max(1, min(RESAMPLES, 20_000_000 // len(values)))
    means = np.random.default_rng(seed).dirichlet(counts, size=rows) @ values
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def figure_interval(metric: Metric, reference: Scored, engine: Scored, seed: int = 0) -> tuple[float, float]:
    """95 % interval of how much worse the engine's figure is, for scores without bounds: samples are weighted anew."""
    rows = max(1, min(RESAMPLES, 20_000_000 // len(reference.scores)))
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(reference.scores)), size=rows)
    pairs = np.stack([weights @ reference.scores, weights @ engine.scores], axis=1)
    low, high = np.quantile([metric.drop(float(a), float(b)) for a, b in pairs], [0.025, 0.975])
    return float(low), float(high)


def _judge(high: float, low: float, limit: float | None, drops: Array, bounded: bool) -> tuple[SectionVerdict, str]:
    if limit is None:
        return "n/a", "no limit was asked"
    if high <= limit:
        return "pass", ""
    if low > limit:
        return "fail", f"the whole interval lies past the limit of {limit:g}"
    n = len(drops)
    changed = int(np.count_nonzero(drops))
    if limit <= 0:
        return "inconclusive", "no finite sample can show that a drop is at most 0; allow a small one"
    least = math.ceil(math.log(0.05) / math.log1p(-limit)) if limit < 1 else 1
    if bounded and n < least:
        return "inconclusive", (
            f"{n} samples cannot resolve a drop of {limit:g}, it takes {least} even if none changes ({changed} did)"
        )
    return "inconclusive", f"the interval reaches from {low:.4f} to {high:.4f}, across the limit of {limit:g}"


def _ended(row: list[int]) -> tuple[int, ...]:
    """Tokens without their padding: the loop repeats the end token for as long as its batch goes on."""
    end = len(row)
    while end > 1 and row[end - 1] == row[end - 2]:
        end -= 1
    return tuple(row[:end])


def _hashable(value: Any) -> Hashable:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value
