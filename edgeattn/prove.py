"""A run's proof: every stage held against PyTorch, and the engine run for its task, its latency and where time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeattn import buckets, cases, decode, export, graphs, merging, opened, report
from edgeattn import profile as profiles
from edgeattn.backends import rounded
from edgeattn.harness import attention, environment, latency, layers, parity, task, why
from edgeattn.harness.limits import Limits
from edgeattn.program import Case, Program, Session, Wiring
from edgeattn.recognise import masks, recognise
from edgeattn.report import schema

if TYPE_CHECKING:
    from edgeattn.backends import Engine
    from edgeattn.job import Job

_TASK_BATCH = 50
_LATENCY_SECONDS = 60.0  # a machine that has not settled by then will not: the verdict is inconclusive
_OPEN = (
    "parity is its graph's, and the bundle's self-test expects what that graph computes; task and latency are open, "
    "and no rewrite rule was chosen by measurement"
)
_STOOD_IN = "parity after 'stand-in' and the bundle's self-test are those of {}; task and latency are open"
_KIT = "kit/ goes to the board, which builds, runs and times it; `edgeattn check` then reads the report that comes back"


@dataclass(frozen=True)
class Evidence:
    """What running the engine showed.

    Attributes:
        sessions: the open engine; where it does not run here, its graphs in the oracle, which answer for the bundle's
            self-test.
        scored, timed, profiled: the task and latency sections, and where the time goes. raw: the samples of ``timed``.
        maps: what PyTorch and the engine attend to.
    """

    sessions: Mapping[str, Session]
    scored: schema.TaskReport | None = None
    timed: schema.LatencyReport | None = None
    raw: report.RawSamples | None = None
    profiled: schema.TimeReport | None = None
    maps: Sequence[report.AttentionFigure] = ()


def not_run(program: Program, why: str) -> schema.StageParity:
    """Parity of an engine that cannot run here: every output is there, and none is judged."""
    assert program.reference is not None
    told = f"not judged here: {why}"
    unknown = schema.OutputParity(max_abs=None, mean_abs=None, limit="", verdict="n/a", why=told)
    names = program.reference.cases[0].outputs
    return schema.StageParity(stage="engine", case_count=0, outputs=dict.fromkeys(names, unknown))


def within_buckets(job: Job, program: Program, engine: Engine) -> Program:
    """The program with those of its cases that its buckets hold; the others are noted."""
    if not job.options.buckets:
        return program
    assert program.reference is not None
    sessions, _ = opened.engine(job.backend, engine)
    kept = buckets.within(program.reference, lambda c: decode.run(sessions, program.wiring, c.feeds, c.tokens))
    if left := [c.name for c in program.reference.cases if c not in kept.cases]:
        largest = max(job.options.buckets)
        job.notes.append(f"longer than the largest bucket, {largest}, and not judged: {', '.join(left)}")
    return replace(program, reference=kept)


def prove(job: Job, program: Program, engine: Engine) -> Evidence:
    """Run the engine: parity, task, latency, profile. Of one that can only be built here, say that none is judged."""
    if not job.runs.available:
        sessions, place = opened.engine(job.backend, engine)
        if place:
            judge(job, "stand-in", program, sessions)
        left_open = _STOOD_IN.format(place) if place else _OPEN
        built = f"the engine was built and not run: {job.runs.why}; {left_open}"
        job.notes.append(_KIT if job.backend.kit else built)
        job.parity.append(not_run(program, job.runs.why))
        return Evidence(sessions or rounded(program))
    program = judged_on(job, program)
    sessions, _ = opened.engine(job.backend, engine)
    judge(job, "engine", program, sessions) if job.steps is None else judge_decoding(job, job.steps, sessions)
    scored = score(job, program, sessions)
    timed, raw = time_it(job, program, sessions)
    maps = draw_attention(job, program, sessions)
    return Evidence(sessions, scored, timed, raw, profile_it(job, program), maps)


def judged_on(job: Job, program: Program) -> Program:
    """The program with those cases alone that the engine is built for."""
    return replace(program, reference=profiles.within(program, job.options.profiles))


def judge(job: Job, stage: str, program: Program, sessions: Mapping[str, Session] | None = None) -> None:
    """Hold a program (in the oracle engine, FP16 and BF16 rounded there, or ``sessions``) against eager PyTorch."""
    job.listen(f"parity after {stage}", 0, None)
    ran_by = sessions if sessions is not None else rounded(program)
    quantized = stage == "stand-in" and job.recipe.quantize is not None
    limits = job.limits if quantized or stage in ("quantize", "engine") else "fp32"
    assert program.reference is not None
    job.parity.append(
        parity.judge(
            stage,
            lambda case: decode.run(ran_by, program.wiring, case.feeds, case.tokens),
            program.reference.cases,
            Limits.of(limits),
        )
    )


def judge_decoding(job: Job, steps: Program, sessions: Mapping[str, Session]) -> None:
    """Hold an engine that decodes against PyTorch: its steps by forced tokens, and what it decodes by its steps."""
    job.listen("parity after engine", 0, None)
    apart = {graph: job.backend.load(model, job.options) for graph, model in steps.graphs.items()}
    job.parity.append(merging.judge(judged_on(job, steps), apart, sessions, Limits.of(job.limits)))


def score(job: Job, program: Program, sessions: Mapping[str, Session]) -> schema.TaskReport | None:
    """The task's metric for PyTorch and for the engine, on the same held-out samples."""
    if job.task is None or job.task.metric.name == "none":
        return None
    known = job.task
    at_once = cases.samples_at_once(graphs.program_inputs(program), _TASK_BATCH)
    at_once = profiles.most(program, job.options.profiles, at_once)

    def scored(what: str, opened: Mapping[str, Session], wiring: Wiring | None, batch: int) -> task.Scored:
        return task.scores(
            lambda batch: decode.run(opened, wiring, batch.feeds, batch.tokens),
            known,
            None,
            batch,
            lambda done, total: job.listen(f"{known.metric.name} of {what}", done, total),
        )

    reference = scored("PyTorch", job.eager, job.model.source.wiring, _TASK_BATCH)
    engine = scored("the engine", sessions, program.wiring, at_once)
    return task.compare(known, reference, engine, job.recipe.gates.task_drop, job.recipe.seed)


def time_it(job: Job, program: Program, sessions: Mapping[str, Session]) -> tuple[schema.LatencyReport, Any]:
    """Eager PyTorch and the engine in the same rounds, on one real sample where there is one."""
    assert program.reference is not None
    case = program.reference.typical
    eager, wiring = job.eager, job.model.source.wiring
    return latency.measure(
        lambda: decode.run(eager, wiring, case.feeds),
        lambda: decode.run(sessions, program.wiring, case.feeds),
        pairs=job.recipe.latency.pairs,
        seed=job.recipe.seed,
        unit=latency.unit_of(sessions.values(), wiring is not None),
        threads=job.threads,
        max_seconds=_LATENCY_SECONDS,
        progress=lambda done, total: job.listen("latency, paired with PyTorch", done, total),
    )


def profile_it(job: Job, program: Program) -> schema.TimeReport | None:
    """Where the engine's time goes, on the sample that was timed; None where the engine does not tell."""
    assert program.reference is not None
    job.listen("profile the engine", 0, None)
    case = Case("profiled", program.reference.typical.feeds)
    found = layers.profile(program, job.backend, job.options, case)
    setting = why.Setting(
        job.recipe.target,
        job.recipe.precision,
        job.options.threads,
        why.kept_float(program.history),
        environment.describe().isa,
    )
    return why.explain(found, program, setting) if found.layers else None


def draw_attention(job: Job, program: Program, sessions: Mapping[str, Session]) -> list[report.AttentionFigure]:
    """What PyTorch and the engine attend to, on the first real sample."""
    assert program.reference is not None
    case = next((c for c in program.reference.cases if c.name == "real-1"), None)
    if case is None or job.task is None:
        return []
    job.listen("draw attention", 0, None)
    if job.model.source.wiring is not None:
        eager = decode.run(job.eager, job.model.source.wiring, case.feeds)
        return attention.alignment(case.feeds, eager, decode.run(sessions, program.wiring, case.feeds), job.task)
    feeds = [(name, value) for name, value in case.feeds.items() if value.ndim == 4]
    (model,) = program.graphs.values()
    order = masks(recognise(model), "sam")
    if not order or len(feeds) != 1:
        return []
    tapped = job.backend.load(graphs.with_outputs(model, order), job.options)
    reference = export.spatial_masks(job.model.source, case.feeds)
    return attention.spatial(feeds[0][1][0], reference, tapped.run(case.feeds), order)
