"""What a run leaves: its report, judged by the recipe's gates, and its bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn import decode, graphs, kits, merging, outside, report, returned
from edgeattn.backends._common import file_size
from edgeattn.bundle import manifest
from edgeattn.bundle.pack import answered_sample, pack
from edgeattn.harness import attention, environment
from edgeattn.harness.limits import Limits
from edgeattn.harness.precision import audit
from edgeattn.program import Program, Session, StageRecord
from edgeattn.prove import judged_on
from edgeattn.recipe import Recipe
from edgeattn.report import schema

if TYPE_CHECKING:
    from edgeattn.backends import Backend, Engine
    from edgeattn.job import Job
    from edgeattn.prove import Evidence


def rules_applied(program: Program) -> list[Mapping[str, Any]]:
    """What each rewrite rule did, as the stages that apply rules recorded it: the rewrite, and a merge after it."""
    found: dict[str, Mapping[str, Any]] = {}
    for stage in ("rewrite", merging.STAGE):
        record = next((r for r in reversed(program.history) if r.name == stage), None)
        found |= {rule["rule"]: rule for rule in (record.notes["rules"] if record else ())}
    return list(found.values())


def make_report(
    job: Job,
    name: str,
    exported: Program,
    program: Program,
    engine: Engine,
    seen: Evidence,
) -> schema.Report:
    """The report of a run, judged by the recipe's gates.

    Args:
        job: what was asked, parity after every stage, notes.
        name: what the report calls the recipe.
        exported: the program before any rewrite, whose size the engine's is held against.
        program: the program the engine was built from. engine: what was built. seen: what running it showed.
    """
    built = StageRecord(
        "compile",
        engine.seconds,
        {"backend": engine.backend, "graphs": dict(engine.effective)},
    )
    ungated = schema.Report(
        verdict="pass",
        recipe=name,
        model=job.recipe.model,
        target=schema.Target(requested=job.recipe.target, effective=_target(engine, job.backend)),
        execution=schema.Execution(ran=job.runs.available, why=job.runs.why),
        precision=audit(job.recipe.precision, engine.effective),
        stages=tuple(schema.StageReport.model_validate(vars(r)) for r in (*program.history, built)),
        rewrites=tuple(schema.RewriteCount.model_validate(r) for r in rules_applied(program)),
        operators=schema.Operators(domains=tuple(graphs.domains(program)), histogram=graphs.histogram(program)),
        parity=schema.ParityReport.of(job.parity),
        task=seen.scored,
        attention=attention.agreement(seen.maps),
        latency=seen.timed,
        profile=seen.profiled,
        size=schema.SizeReport(
            reference_bytes=sum(outside.size(m) for m in exported.graphs.values()),
            engine_bytes=file_size(engine.directory, engine.files.values()),
        ),
        build=schema.BuildReport(seconds=engine.seconds, peak_bytes=engine.peak_bytes),
        environment=environment.describe(threads=job.threads),
        notes=tuple(job.notes),
    )
    gates, verdict = report.evaluate(ungated, job.recipe.gates.model_dump())
    return ungated.model_copy(update={"gates": tuple(gates), "verdict": verdict})


def judged_again(directory: Path, baseline: schema.Report | None = None) -> schema.Report:
    """The report of what was signed off, judged anew: a run by its recipe's gates, a board's kit by its evidence.

    Args:
        directory: a run directory, or a build kit that came back. baseline: a report that it must not fall behind.

    Raises:
        BadInput: it is neither. IntegrityError: a file of the bundle or kit was altered.
    """
    if returned.is_kit(directory):
        found = returned.read(directory)
        gates = [*found.gates, *(report.baseline.regressions(found, baseline) if baseline else ())]
        verdict = report.gates.overall(gates, found.execution.ran)
        return found.model_copy(update={"gates": tuple(gates), "verdict": verdict})
    found = schema.Report.read(directory / "report.json")
    if returned.is_kit(directory / "kit"):
        returned.opened(directory / "kit")
    else:
        manifest.verify(directory / "bundle")
    judged, verdict = report.evaluate(found, Recipe.load(directory / "recipe.yaml").gates.model_dump(), baseline)
    return found.model_copy(update={"gates": tuple(judged), "verdict": verdict})


def _target(engine: Engine, backend: Backend) -> str:
    devices = sorted({str(e["device"]) for e in engine.effective.values()})
    return f"{engine.backend.replace('_', '-')}:{'+'.join(devices)} {backend.probe().version}"


def complete_kit(job: Job, name: str, exported: Program, program: Program, engine: Engine) -> None:
    """Add to the graphs that a backend wrote what a board needs to build, run and judge them."""
    ask = kits.Ask(
        model=job.recipe.model,
        recipe=name,
        target=job.recipe.target,
        limits=Limits.of(job.limits),
        gates=job.recipe.gates.model_dump(),
        pairs=job.recipe.latency.pairs,
        seed=job.recipe.seed,
        reference_bytes=sum(outside.size(model) for model in exported.graphs.values()),
        notes=job.model.notes,
    )
    kits.write(engine.directory, judged_on(job, program), engine, ask)


def fill_bundle(job: Job, program: Program, engine: Engine, sessions: Mapping[str, Session], directory: Path) -> None:
    """Pack engine, portable ONNX, assets, and one answered sample that the runtime can check itself with."""
    assert program.reference is not None
    case = program.reference.typical
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
