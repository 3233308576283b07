"""One run in progress: what was asked, what it works with, and the real samples it is judged on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeattn import decode, export, registry, source
from edgeattn.backends import Backend, Options, parse_target
from edgeattn.backends._common import usable_cores
from edgeattn.errors import MissingPackage, Unsupported, UsageError
from edgeattn.program import Case, Program, Session
from edgeattn.recipe import Recipe, parse_dynamic
from edgeattn.report import schema

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays
    from edgeattn.tasks import Task

Listener = Callable[[str, int, "int | None"], None]
"""Hears ``(what is going on, done, total)``; total is None while it is unknown."""


def silent(_what: str, _done: int, _total: int | None) -> None:
    """A listener that ignores everything."""


@dataclass
class Job:
    """One run in progress: what was asked, what is known so far."""

    recipe: Recipe
    model: source.Resolved
    task: Task | None
    backend: Backend
    options: Options
    listen: Listener
    parity: list[schema.StageParity] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def eager(self) -> Mapping[str, Session]:
        """PyTorch as sessions."""
        return export.eager_sessions(self.model.source)


def prepare(recipe: Recipe, listen: Listener = silent) -> Job:
    """Find the model, its task and the engine, and refuse early what cannot work."""
    listen("load the model", 0, None)
    dynamic = [parse_dynamic(d) for d in recipe.export.dynamic]
    model = source.resolve(recipe.model, recipe.weights, recipe.export.shapes, dynamic)
    task_name = recipe.task or model.task
    known: Task | None = registry.get("tasks", task_name) if task_name else None
    if recipe.quantize and known is None:
        raise UsageError(
            "INT8 needs real data to calibrate on, and this model has no task",
            where=recipe.where("quantize"),
            hint=f"name one: task: {' | '.join(registry.names('tasks'))}",
        )
    backend_name, device = parse_target(recipe.target)
    backend: Backend = registry.get("backends", backend_name)
    here = backend.probe()
    if not here.available:
        raise MissingPackage(backend_name, backend.extra, why=here.why)
    threads = recipe.latency.threads or usable_cores()
    export.use_threads(threads)
    job = Job(recipe, model, known, backend, Options(device, recipe.precision, threads), listen)
    refuse_unsupported(job, Program({}))  # a precision or device this machine lacks is known before any work
    return job


def refuse_unsupported(job: Job, program: Program) -> None:
    """Raise the engine's first reason why it cannot build a program, with the node and what mends it."""
    for first in job.backend.unsupported(program, job.options):
        where = f"{job.recipe.target}: graph '{first.graph}'" + (f", node '{first.node}'" if first.node else "")
        raise Unsupported(first.reason, where=where, hint=first.hint)


def real_cases(job: Job) -> list[Case]:
    """Held-out samples as oracle cases: one alone, and eight together. Wired programs are forced to eager's tokens."""
    if job.task is None:
        return []
    found = []
    for size in (1, 8):
        batch = next(job.task.test(size, size))
        tokens = batch.tokens if batch.tokens is not None else _forced_tokens(job, batch.feeds)
        found.append(Case(f"real-{size}", batch.feeds, tokens))
    return found


def _forced_tokens(job: Job, feeds: Arrays) -> Array | None:
    wiring = job.model.source.wiring
    if wiring is None:
        return None
    tokens = decode.run(job.eager, wiring, feeds)["tokens"]
    if wiring.stop.first:
        return tokens[:, :-1] if tokens.shape[1] > 1 else tokens
    start = np.full((len(tokens), 1), wiring.stop.start, np.int64)
    return np.concatenate([start, tokens[:, :-1]], axis=1)
