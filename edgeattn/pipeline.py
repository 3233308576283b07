"""From a recipe to a run directory: the table of contents of edgeattn, a line a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from edgeattn import (
    buckets,
    budget,
    calib,
    cases,
    choose,
    decode,
    export,
    gating,
    graphs,
    memory,
    merging,
    opened,
    progress,
    report,
    tune,
)
from edgeattn import profile as profiles
from edgeattn.backends import Engine, calibrator, oracle, rounded
from edgeattn.errors import UsageError
from edgeattn.harness import attention, environment, latency, layers, parity, task, why
from edgeattn.harness.parity import Limits
from edgeattn.harness.precision import measured
from edgeattn.job import Job, prepare, real_cases, refuse_unsupported
from edgeattn.outcome import Evidence, complete_kit, fill_bundle, make_report, not_run, rules_applied
from edgeattn.program import Case, Program, Reference, Session, Wiring
from edgeattn.progress import Listener, silent
from edgeattn.publish import new_directory
from edgeattn.quantize import Budget, Settings, find, forms, quantize
from edgeattn.recipe import Quantize, Recipe
from edgeattn.recognise import masks, recognise
from edgeattn.report import schema, searching
from edgeattn.rewrite import Choice, rewrite
from edgeattn.shelf import Shelf

__all__ = ["run"]

UNDONE = "undone"  # in the run directory: examples of rules that had to be undone
_TASK_BATCH = 50
_LATENCY_SECONDS = 60.0  # a machine that has not settled by then will not: the verdict is inconclusive
_PICTURES = 4
_OPEN = (
    "parity is its graph's, and the bundle's self-test expects what that graph computes; task and latency are open, "
    "and no rewrite rule was chosen by measurement"
)
_STOOD_IN = "parity after 'stand-in' and the bundle's self-test are those of {}; task and latency are open"
_KIT = "kit/ goes to the board, which builds, runs and times it; `edgeattn check` then reads the report that comes back"


def run(
    recipe: Recipe,
    out: Path,
    *,
    name: str = "",
    force: bool = False,
    listen: Listener = silent,
    shelf: Shelf | None = None,
) -> schema.Report:
    """Run a recipe: build the engine, prove it, and publish the run directory.

    Args:
        recipe: what to do.
        out: the directory to publish, whole or not at all.
        name: what the report calls the recipe.
        force: replace an earlier run at ``out``.
        listen: progress.
        shelf: where finished stages lie that this run shares with others, and puts its own.

    Returns:
        The report that was written; a failed gate is in its verdict, not an exception.

    Raises:
        EdgeattnError: what keeps a run from finishing; nothing is written then.
    """
    recipe.check_names()
    with new_directory(out, force) as work:
        job = prepare(recipe, listen)
        once = (shelf or Shelf()).once
        program = exported = once(job, "export", partial(export_stage, job))
        complete_profiles(job, program)
        program = once(job, "rewrite", partial(rewrite_stage, job, program, work / UNDONE), work / UNDONE)
        program = once(job, "quantize", partial(quantize_stage, job, program))
        program = merge_stage(job, program)
        tune_stage(job, program)
        engine = compile_stage(job, program, work / ("kit" if job.backend.kit else "bundle/engine"))
        program = within_buckets(job, program, engine)
        seen = prove(job, program, engine)
        result = make_report(job, name, exported, program, engine, seen)
        if job.backend.kit:
            complete_kit(job, name, exported, program, engine)
        else:
            fill_bundle(job, program, engine, seen.sessions, work / "bundle")
        shown = seen.maps[:: -(-len(seen.maps) // _PICTURES) or 1]  # a deep network has a mask a block: a few, evenly
        report.write(result, work, seen.raw, shown)
        (work / "recipe.yaml").write_text(recipe.dump(), encoding="utf-8")
    return result


def export_stage(job: Job) -> Program:
    """PyTorch -> Program, with seeded and real cases answered by eager PyTorch."""
    job.listen("export to ONNX", 0, None)
    program = export.export(job.model.source, opset=job.recipe.export.opset, seed=job.recipe.seed, real=real_cases(job))
    judge(job, "export", program)
    return program


def complete_profiles(job: Job, program: Program) -> None:
    """An engine that is built for sizes is built for those of the cases, where the recipe does not name them."""
    if job.backend.profiled:
        job.options = replace(job.options, profiles=profiles.complete(program, job.recipe.profile))


def rewrite_stage(job: Job, program: Program, undone: Path | None = None) -> Program:
    """Attention in the form every engine runs fast; each rule is checked against the exported graph.

    Args:
        job: the run. program: what was exported.
        undone: where an example is left of each rule that had to be undone.
    """
    recipe = job.recipe.rewrite
    try:
        result = rewrite(
            program,
            oracle,
            only=recipe.only,
            skip=recipe.skip,
            also=[] if job.recipe.quantize is None else forms(job.recipe.quantize.scheme),
            chooser=_chooser(job) if job.timed else None,
            progress=lambda line: job.listen(f"rewrite: {line}", 0, None),
            sizes=recipe.fix,
            repro=undone,
        )
    except UsageError as error:
        if not error.where.startswith("--fix"):
            raise
        raise UsageError(error.what, where=job.recipe.where("rewrite", "fix"), hint=error.hint) from error
    if recipe.fix:
        result = replace(result, reference=_fitting(program, result))
    for rule in rules_applied(result):
        if rule.get("undone"):
            seen = f" (see {UNDONE}/{rule['repro']}/)" if rule.get("repro") else ""
            job.notes.append(f"rewrite rule {rule['rule']} was undone: {rule['undone']}{seen}")
    judge(job, "rewrite", result)
    return result


def _chooser(job: Job) -> Callable[[Program, Program], Choice]:
    """Times a program before and after a rule in the precision that it is built in."""
    wanted = job.recipe.quantize
    form = None if wanted is None else _quickly(job, wanted)
    return choose.by_latency(job.backend.name, job.options, seed=job.recipe.seed, form=form)


def _quickly(job: Job, wanted: Quantize) -> Callable[[Program], Program]:
    """Quantizes with ranges from one case: speed does not depend on them, and the rewriter judges the numbers.

    Gates are float, and nothing is kept by request: a rule may have renamed what a pattern means.
    """
    scheme: str = getattr(find(wanted.scheme), "timed_as", wanted.scheme)
    settings = Settings(qdq=job.backend.qdq)

    def form(program: Program) -> Program:
        assert program.reference is not None
        return quantize(program, scheme, oracle, [program.reference.typical], settings)

    return form


def _fitting(exported: Program, fixed: Program) -> Reference:
    """PyTorch's answers to those cases that have the sizes which the program is built for.

    Raises:
        UsageError: none has.
    """
    assert exported.reference is not None
    specs = graphs.program_inputs(fixed)
    kept = tuple(case for case in exported.reference.cases if cases.fits(case, specs))
    if not kept:
        raise UsageError("no case that PyTorch answered has these sizes", where="rewrite.fix", hint="fix fewer of them")
    return replace(exported.reference, cases=kept)


def quantize_stage(job: Job, program: Program) -> Program:
    """Real training data sets the scales; attention gates follow the policy."""
    wanted = job.recipe.quantize
    if wanted is None:
        return program
    allowed = Budget(wanted.max_drop, wanted.sqnr, wanted.minutes)
    settings = Settings(wanted.gate, tuple(wanted.keep), job.backend.qdq, wanted.ranges, allowed)
    tried = budget.judge(job.backend.name, job.options, program, job.task, wanted.samples, job.listen)

    def make(gate: str) -> Program:
        data = _calibration(job, program, wanted) if find(wanted.scheme).calibrated else ()
        return quantize(program, wanted.scheme, calibrator, data, replace(settings, gate=gate), tried)

    if wanted.gate == "auto":
        result = gating.settled(make, program, job.backend, job.options, seed=job.recipe.seed)
        job.notes.append(result.history[-1].notes[gating.NOTE]["said"])
    else:
        result = make(wanted.gate)
    job.notes.extend(searching.told(result.history[-1].notes))
    job.notes += result.history[-1].notes.get("calibration", {}).get("warnings", ())
    judge(job, "quantize", result)
    return result


def merge_stage(job: Job, program: Program) -> Program:
    """The steps and their greedy loop as one graph, where that was asked for or is faster on the target."""
    how = job.recipe.decoding
    if how == "steps":
        return program
    job.listen("merge the steps into one graph", 0, None)
    result, said = merging.settled(program, how, job.backend, job.options, seed=job.recipe.seed)
    job.notes.append(said)
    job.steps = program if result.wiring is None else None
    return result


def tune_stage(job: Job, program: Program) -> None:
    """Measure the engine's settings where the recipe asks for it; the job goes on with the fastest."""
    if not job.recipe.tune:
        return
    job.listen("measure the engine's settings", 0, None)
    refuse_unsupported(job, program)
    right = tune.within(program, Limits.of(job.limits))
    job.options, tried = tune.settings(program, job.backend, job.options, right, seed=job.recipe.seed)
    for name, choice in tried:
        job.notes.append(f"{name} was {'taken' if choice.keep else 'tried and left'}: {choice}")


def compile_stage(job: Job, program: Program, directory: Path) -> Engine:
    """Refuse what the engine cannot take, then build into the directory of engine files."""
    job.listen(f"compile for {job.recipe.target}", 0, None)
    refuse_unsupported(job, program)
    program = _judged_on(job, program)
    directory.mkdir(parents=True)
    before = memory.held()
    with progress.heard_by(job.listen):
        engine = job.backend.compile(program, job.options, directory)
    told = measured(engine.effective)["peak_bytes"]
    return replace(engine, peak_bytes=memory.grown(before) if told is None else told)


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
    program = _judged_on(job, program)
    sessions, _ = opened.engine(job.backend, engine)
    judge(job, "engine", program, sessions) if job.steps is None else judge_decoding(job, job.steps, sessions)
    scored = score(job, program, sessions)
    timed, raw = time_it(job, program, sessions)
    maps = draw_attention(job, program, sessions)
    return Evidence(sessions, scored, timed, raw, profile_it(job, program), maps)


def _judged_on(job: Job, program: Program) -> Program:
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
    job.parity.append(merging.judge(_judged_on(job, steps), apart, sessions, Limits.of(job.limits)))


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
        unit="inference" if wiring is None else "sequence",
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


def _calibration(job: Job, program: Program, wanted: Quantize) -> Iterator[Case]:
    name = wanted.calib or job.recipe.task or job.model.task
    assert name is not None  # job.prepare saw to it
    return calib.cases(
        name,
        graphs.program_inputs(program),
        wanted.samples,
        wanted.pixels or "",
        lambda done: job.listen("calibrate", done, wanted.samples),
    )
