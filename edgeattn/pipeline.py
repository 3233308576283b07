"""From a recipe to a run directory: the table of contents of edgeattn, a line a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn import decode, export, graphs, registry, report, source
from edgeattn.backends import Backend, Engine, Options, oracle, parse_target
from edgeattn.backends._common import file_size, usable_cores
from edgeattn.bundle.pack import answered_sample, pack
from edgeattn.errors import MissingPackage, Unsupported, UsageError
from edgeattn.harness import attention, environment, latency, parity, task
from edgeattn.harness.parity import Limits
from edgeattn.harness.precision import audit
from edgeattn.program import Case, Program, Session, StageRecord, Wiring
from edgeattn.publish import new_directory
from edgeattn.quantize import Settings, quantize
from edgeattn.recipe import Recipe, parse_dynamic
from edgeattn.recognise import masks, recognise
from edgeattn.report import schema
from edgeattn.rewrite import rewrite

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


def run(recipe: Recipe, out: Path, *, name: str = "", force: bool = False, listen: Listener = silent) -> schema.Report:
    """Run a recipe: build the engine, prove it, and publish the run directory.

    Args:
        recipe: what to do.
        out: the directory to publish, whole or not at all.
        name: what the report calls the recipe.
        force: replace an earlier run at ``out``.
        listen: progress.

    Returns:
        The report that was written; a failed gate is in its verdict, not an exception.

    Raises:
        EdgeattnError: what keeps a run from finishing; nothing is written then.
    """
    recipe.check_names()
    with new_directory(out, force) as work:
        job = prepare(recipe, listen)
        program = exported = export_stage(job)
        program = rewrite_stage(job, program)
        program = quantize_stage(job, program)
        engine = compile_stage(job, program, work / "bundle")
        sessions = {graph: job.backend.open(engine.directory / f, job.options) for graph, f in engine.files.items()}
        judge(job, "engine", program, sessions)
        scored = score(job, program, sessions)
        timed, raw = time_it(job, program, sessions)
        pictures = draw_attention(job, program, sessions)
        result = _report(job, name, exported, program, engine, scored, timed)
        _bundle(job, program, engine, sessions, work / "bundle")
        job.notes += report.write(result, work, raw, pictures)
        (work / "recipe.yaml").write_text(recipe.dump(), encoding="utf-8")
    return result


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


def export_stage(job: Job) -> Program:
    """PyTorch -> Program, with seeded and real cases answered by eager PyTorch."""
    job.listen("export to ONNX", 0, None)
    program = export.export(
        job.model.source, opset=job.recipe.export.opset, seed=job.recipe.seed, real=_real_cases(job)
    )
    judge(job, "export", program)
    return program


def rewrite_stage(job: Job, program: Program) -> Program:
    """Attention in the form every engine runs fast; each rule is checked against the exported graph."""
    recipe = job.recipe.rewrite
    result = rewrite(
        program,
        oracle,
        only=recipe.only,
        skip=recipe.skip,
        progress=lambda line: job.listen(f"rewrite: {line}", 0, None),
    )
    job.notes += [f"rewrite rule {r['rule']} was undone: {r['undone']}" for r in _rules(result) if r.get("undone")]
    judge(job, "rewrite", result)
    return result


def quantize_stage(job: Job, program: Program) -> Program:
    """Real training data sets the scales; attention gates follow the policy."""
    wanted = job.recipe.quantize
    if wanted is None:
        return program
    settings = Settings(wanted.gate, tuple(wanted.keep), job.backend.qdq)
    result = quantize(program, wanted.scheme, oracle, _calibration(job, wanted.samples), settings)
    judge(job, "quantize", result)
    return result


def compile_stage(job: Job, program: Program, bundle: Path) -> Engine:
    """Refuse what the engine cannot take, then build into the bundle."""
    job.listen(f"compile for {job.recipe.target}", 0, None)
    refuse_unsupported(job, program)
    directory = bundle / "engine"
    directory.mkdir(parents=True)
    return job.backend.compile(program, job.options, directory)


def judge(job: Job, stage: str, program: Program, sessions: Mapping[str, Session] | None = None) -> None:
    """Hold a program (in the oracle engine, or open as ``sessions``) against eager PyTorch on every case."""
    job.listen(f"parity after {stage}", 0, None)
    assert program.reference is not None
    opened = sessions if sessions is not None else oracle(program)
    precision = job.recipe.precision if stage in ("quantize", "engine") else "fp32"
    job.parity.append(
        parity.judge(
            stage,
            lambda case: decode.run(opened, program.wiring, case.feeds, case.tokens),
            program.reference.cases,
            Limits.of(precision),
        )
    )


def score(job: Job, program: Program, sessions: Mapping[str, Session]) -> schema.TaskReport | None:
    """The task's metric for PyTorch and for the engine, on the same held-out samples."""
    if job.task is None or job.task.metric == "none":
        return None
    known = job.task

    def scored(what: str, opened: Mapping[str, Session], wiring: Wiring | None) -> task.Scored:
        return task.scores(
            lambda feeds: decode.run(opened, wiring, feeds),
            known,
            None,
            _BATCH,
            lambda done, total: job.listen(f"{known.metric} of {what}", done, total),
        )

    reference = scored("PyTorch", job.eager, job.model.source.wiring)
    engine = scored("the engine", sessions, program.wiring)
    return task.compare(known, reference, engine, job.recipe.gates.task_drop, job.recipe.seed)


def time_it(job: Job, program: Program, sessions: Mapping[str, Session]) -> tuple[schema.LatencyReport, Any]:
    """Eager PyTorch and the engine in the same rounds, on one real sample where there is one."""
    assert program.reference is not None
    case = next((c for c in program.reference.cases if c.name == "real-1"), program.reference.cases[0])
    eager, wiring = job.eager, job.model.source.wiring
    return latency.measure(
        lambda: decode.run(eager, wiring, case.feeds),
        lambda: decode.run(sessions, program.wiring, case.feeds),
        pairs=job.recipe.latency.pairs,
        seed=job.recipe.seed,
        unit="inference" if wiring is None else "sequence",
        threads=job.options.threads,
        max_seconds=_LATENCY_SECONDS,
        progress=lambda done, total: job.listen("latency, paired with PyTorch", done, total),
    )


def draw_attention(job: Job, program: Program, sessions: Mapping[str, Session]) -> list[report.AttentionFigure]:
    """What PyTorch and the engine attend to, on the first real sample."""
    assert program.reference is not None
    case = next((c for c in program.reference.cases if c.name == "real-1"), None)
    if case is None or job.task is None:
        return []
    job.listen("draw attention", 0, None)
    if program.wiring is not None:
        eager = decode.run(job.eager, job.model.source.wiring, case.feeds)
        return attention.alignment(case.feeds, eager, decode.run(sessions, program.wiring, case.feeds), job.task)
    (model,) = program.graphs.values()
    order = masks(recognise(model), "sam")
    if not order:
        return []
    tapped = job.backend.load(graphs.with_outputs(model, order), job.options)
    (image,) = (v for k, v in case.feeds.items())
    return attention.spatial(
        image[0], export.spatial_masks(job.model.source, case.feeds), tapped.run(case.feeds), order
    )


_BATCH = 50
_LATENCY_SECONDS = 60.0  # a machine that has not settled by then will not: the verdict is inconclusive


def _real_cases(job: Job) -> list[Case]:
    """Held-out samples as oracle cases: one alone, and eight together. Wired programs are forced to eager's tokens."""
    if job.task is None:
        return []
    found = []
    for size in (1, 8):
        feeds = next(job.task.test(size, size)).feeds
        found.append(Case(f"real-{size}", feeds, _forced_tokens(job, feeds)))
    return found


def _forced_tokens(job: Job, feeds: Arrays) -> Array | None:
    wiring = job.model.source.wiring
    if wiring is None:
        return None
    tokens = decode.run(job.eager, wiring, feeds)["tokens"]
    start = np.full((len(tokens), 1), wiring.stop.start, np.int64)
    return np.concatenate([start, tokens[:, :-1]], axis=1)


def _calibration(job: Job, samples: int) -> Iterator[Case]:
    assert job.task is not None
    done = 0
    for batch in job.task.train(samples, _CALIBRATION_BATCH):
        yield Case("calibration", batch.feeds)
        done += len(batch.targets)
        job.listen("calibrate", done, samples)


_CALIBRATION_BATCH = 4


def _rules(program: Program) -> list[Mapping[str, Any]]:
    record = next((r for r in reversed(program.history) if r.name == "rewrite"), None)
    return list(record.notes["rules"]) if record else []


def _report(
    job: Job,
    name: str,
    exported: Program,
    program: Program,
    engine: Engine,
    scored: schema.TaskReport | None,
    timed: schema.LatencyReport,
) -> schema.Report:
    built = StageRecord("compile", engine.seconds, {"backend": engine.backend, "graphs": dict(engine.effective)})
    ungated = schema.Report(
        verdict="pass",
        recipe=name,
        model=job.recipe.model,
        target=schema.Target(requested=job.recipe.target, effective=_target(engine, job.backend)),
        precision=audit(job.recipe.precision, engine.effective),
        stages=tuple(schema.StageReport.model_validate(vars(r)) for r in (*program.history, built)),
        rewrites=tuple(schema.RewriteCount.model_validate(r) for r in _rules(program)),
        operators=schema.Operators(domains=tuple(graphs.domains(program)), histogram=graphs.histogram(program)),
        parity=schema.ParityReport.of(job.parity),
        task=scored,
        latency=timed,
        size=schema.SizeReport(
            reference_bytes=sum(m.ByteSize() for m in exported.graphs.values()),
            engine_bytes=file_size(engine.directory, engine.files.values()),
        ),
        environment=environment.describe(threads=job.options.threads),
        notes=tuple(job.notes),
    )
    gates, verdict = report.evaluate(ungated, job.recipe.gates.model_dump())
    return ungated.model_copy(update={"gates": tuple(gates), "verdict": verdict})


def _target(engine: Engine, backend: Backend) -> str:
    devices = sorted({str(e["device"]) for e in engine.effective.values()})
    return f"{engine.backend.replace('_', '-')}:{'+'.join(devices)} {backend.probe().version}"


def _bundle(job: Job, program: Program, engine: Engine, sessions: Mapping[str, Session], directory: Path) -> None:
    """Pack engine, portable ONNX, assets, and one answered sample that the runtime can check itself with."""
    assert program.reference is not None
    case = next((c for c in program.reference.cases if c.name == "real-1"), program.reference.cases[0])
    answer = decode.run(sessions, program.wiring, case.feeds)
    pack(
        directory,
        program=program,
        engine=engine,
        model=job.recipe.model,
        target=job.recipe.target,
        task=job.task.name if job.task else None,
        assets=job.task.assets() if job.task else {},
        sample=answered_sample(case.feeds, answer, job.recipe.precision),
    )
