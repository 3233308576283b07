"""One run in progress: what was asked, what it works with, and the real samples it is judged on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn import buckets, calib, export, registry, source, tasks
from edgeattn.arrays import check_feeds
from edgeattn.backends import (
    Availability,
    Backend,
    Options,
    check_settings,
    parse_target,
    require_running,
)
from edgeattn.backends._common import usable_cores
from edgeattn.errors import BadInput, MissingPackage, Unsupported, UsageError
from edgeattn.program import Case, Program, Session
from edgeattn.progress import Listener, silent
from edgeattn.quantize import find
from edgeattn.recipe import Recipe, parse_dynamic, parse_spec
from edgeattn.report import schema

if TYPE_CHECKING:
    from edgeattn.tasks import Task


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
    steps: Program | None = None
    """The program before its steps were merged into one graph that decodes; None where they were not."""

    @property
    def eager(self) -> Mapping[str, Session]:
        """PyTorch as sessions."""
        return export.eager_sessions(self.model.source)

    @property
    def threads(self) -> int:
        """Threads that PyTorch is timed with; the engine's are in its options, fewer where that was faster."""
        return self.recipe.latency.threads or usable_cores()

    @property
    def runs(self) -> Availability:
        """Whether the engine runs on this machine, or can only be built here, and why."""
        return self.backend.executes(self.options)

    @property
    def timed(self) -> bool:
        """Whether rewrite rules that may pay or not are timed on the engine."""
        recipe = self.recipe
        measured = recipe.rewrite.measure and (recipe.precision == "fp32" or recipe.quantize is not None)
        return measured and self.runs.available

    @property
    def limits(self) -> str:
        """The parity limits of what the engine runs: the scheme's, or those of the precision asked for."""
        wanted = self.recipe.quantize
        return self.recipe.precision if wanted is None else find(wanted.scheme).limits


def prepare(recipe: Recipe, listen: Listener = silent) -> Job:
    """Find the model, its task and the engine, and refuse early what cannot work."""
    listen("load the model", 0, None)
    model = source.resolve(recipe.model, recipe.weights, _inputs(recipe))
    task_name = recipe.task or model.task
    known = tasks.find(task_name) if task_name else None
    if recipe.quantize and not recipe.quantize.calib and find(recipe.quantize.scheme).calibrated and known is None:
        raise UsageError(
            "INT8 needs real data to calibrate on, and this model has no task",
            where=recipe.where("quantize"),
            hint=f"name data: quantize: {{calib: data.npz}}, or a task: {' | '.join(registry.names('tasks'))}",
        )
    _refuse_reshaping(recipe)
    if recipe.decoding != "steps":
        refuse_decoding(model.source.wiring is not None, known, recipe.where("decoding"))
    backend_name, device = parse_target(recipe.target)
    backend: Backend = registry.get("backends", backend_name)
    _refuse_unportable(recipe)
    here = backend.probe()
    if not here.available:
        raise MissingPackage(backend_name, backend.extra, why=here.why)
    threads = recipe.latency.threads or usable_cores()
    export.use_threads(threads)
    options = _options(recipe, device, threads)
    check_settings(backend, options, recipe.where)
    job = Job(recipe, model, known, backend, options, listen, notes=[*model.notes])
    if options.hint != "latency":
        job.notes.append(
            f"built for {options.hint}: its latency is not comparable with that of engines built for latency"
        )
    if recipe.quantize and recipe.quantize.calib and find(recipe.quantize.scheme).calibrated:
        _first_calibrated(job, recipe.quantize.calib)
    _refuse_measuring(job)
    _refuse_untyped(job)
    refuse_unsupported(job, Program({}))  # a precision or device this machine lacks is known before any work
    return job


def _options(recipe: Recipe, device: str, threads: int) -> Options:
    asked = recipe.buckets
    sizes: tuple[int, ...] = ()
    if asked is not None and asked.lengths is not None:
        assert asked.count is not None
        sizes = buckets.choose(buckets.read(Path(asked.lengths)), asked.count)
    elif asked is not None:
        sizes = tuple(sorted(set(asked.sizes)))
    options = Options(device, recipe.precision, threads, buckets=sizes)
    return replace(options, profiles=recipe.profile, settings=recipe.engine)


def _refuse_measuring(job: Job) -> None:
    """An engine that can only be built here cannot say what is faster on it."""
    if job.recipe.tune:
        require_running(job.backend, job.options, f"'tune' ({job.recipe.where('tune')})")
    if job.recipe.decoding == "auto":
        require_running(job.backend, job.options, f"'decoding: auto' ({job.recipe.where('decoding')})")
    if job.recipe.quantize and job.recipe.quantize.gate == "auto":
        require_running(job.backend, job.options, f"'gate: auto' ({job.recipe.where('quantize', 'gate')})")


def _refuse_untyped(job: Job) -> None:
    """An engine that computes in what the graph says needs a scheme that says it."""
    asked = job.recipe.precision
    if job.backend.typed and asked in ("fp16", "bf16") and job.recipe.quantize is None:
        raise UsageError(
            f"{job.recipe.target} computes in what the graph says, and the graph is exported in fp32",
            where=job.recipe.where("precision"),
            hint=f"add 'quantize: {{scheme: {asked}}}'",
        )


def _refuse_unportable(recipe: Recipe) -> None:
    """A bundle holds the engine and the same numbers as portable ONNX, which some schemes do not leave."""
    wanted = recipe.quantize
    if wanted is not None and find(wanted.scheme).targets:
        raise Unsupported(
            f"scheme '{wanted.scheme}' leaves no portable ONNX, which a run's bundle holds beside the engine",
            where=recipe.where("quantize", "scheme"),
            hint=f"take int8-static, or `edgeattn quantize --scheme {wanted.scheme}` for the engine's own file alone",
        )


def refuse_decoding(wired: bool, task: Task | None, where: str) -> None:
    """Refuse to make one graph that decodes out of what cannot decode by itself.

    Args:
        wired: whether the model is steps. task: what it is scored on. where: of the key.

    Raises:
        UsageError: the model decodes nothing, or its task scores given text.
    """
    if not wired:
        raise UsageError("the model decodes nothing: it is one graph", where=where, hint="leave 'decoding' out")
    if task is not None and (batch := next(task.test(1, 1), None)) is not None and batch.tokens is not None:
        what = f"task '{task.name}' scores given text, and a graph that decodes takes no tokens"
        raise UsageError(what, where=where, hint="leave 'decoding' out, or set it to steps")


_INSTEAD = {"merge_loop": "; or have the recipe do it: decoding: graph"}


def _refuse_reshaping(recipe: Recipe) -> None:
    """A run holds the engine against PyTorch's own graphs, so those it must have."""
    for name in recipe.rewrite.only:
        if registry.get("rewrite", name).reshapes:
            raise UsageError(
                f"'{name}' changes how the model is used, and a run judges it as PyTorch uses it",
                where=recipe.where("rewrite", "only"),
                hint=f"apply it to the program: edgeattn rewrite DIR -o OUT --also {name}{_INSTEAD.get(name, '')}",
            )


def refuse_unsupported(job: Job, program: Program) -> None:
    """Raise the engine's first reason why it cannot build a program, with the node and what mends it."""
    for first in job.backend.unsupported(program, job.options):
        raise Unsupported(first.reason, where=first.at(job.recipe.target), hint=first.hint)


def _inputs(recipe: Recipe) -> source.Inputs:
    wanted = recipe.export
    return source.Inputs(
        [parse_spec(name, text) for name, text in wanted.shapes.items()],
        [parse_dynamic(text) for text in wanted.dynamic],
        Path(wanted.inputs) if wanted.inputs else None,
    )


def real_cases(job: Job) -> list[Case]:
    """Real inputs as oracle cases: held-out samples, one alone and eight together, and the user's own example."""
    held_out = [_held_out(job, job.task, size) for size in (1, 8)] if job.task is not None else []
    found = [*held_out, *job.model.real]
    if not found and job.recipe.quantize and job.recipe.quantize.calib:
        job.notes.append("no held-out data was given: INT8 is judged on samples that it was calibrated on")
        found.append(replace(_first_calibrated(job, job.recipe.quantize.calib), name="real-calibration"))
    return found


def _first_calibrated(job: Job, name: str) -> Case:
    """A batch of calibration data; that it can be had is known before any long work."""
    pixels = job.recipe.quantize.pixels if job.recipe.quantize else None
    batch = next(calib.cases(name, export.program_inputs(job.model.source), 8, pixels or ""), None)
    if batch is None:
        raise BadInput("has no sample", where=name, hint="give at least one")
    return batch


def _held_out(job: Job, task: Task, size: int) -> Case:
    batch = next(task.test(size, size), None)
    if batch is None:
        raise BadInput("has no test samples", where=f"task {task.name}", hint="test() must yield a Batch")
    check_feeds(batch.feeds, export.program_inputs(job.model.source), f"task {job.recipe.task or task.name}")
    return Case(f"real-{size}", batch.feeds, batch.tokens)
