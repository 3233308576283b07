"""From a recipe to a run directory: the table of contents of edgeattn, a line a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgeattn import budget, calib, cases, choose, export, gating, graphs, memory, merging, progress, report, tune
from edgeattn import profile as profiles
from edgeattn.backends import Engine, calibrator, oracle
from edgeattn.errors import UsageError
from edgeattn.harness.limits import Limits
from edgeattn.harness.precision import measured
from edgeattn.job import Job, prepare, real_cases, refuse_unsupported
from edgeattn.outcome import complete_kit, fill_bundle, make_report, rules_applied
from edgeattn.program import Case, Program, Reference
from edgeattn.progress import Listener, silent
from edgeattn.prove import judge, judged_on, prove, within_buckets
from edgeattn.publish import new_directory
from edgeattn.quantize import Budget, Settings, find, forms, quantize
from edgeattn.recipe import Quantize, Recipe
from edgeattn.report import schema, searching
from edgeattn.rewrite import Choice, rewrite
from edgeattn.shelf import Shelf

__all__ = ["run"]

UNDONE = "undone"  # in the run directory: examples of rules that had to be undone
_PICTURES = 4


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
    scheme = find(wanted.scheme).timed_as or wanted.scheme
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
    program = judged_on(job, program)
    directory.mkdir(parents=True)
    before = memory.held()
    with progress.heard_by(job.listen):
        engine = job.backend.compile(program, job.options, directory)
    told = measured(engine.effective)["peak_bytes"]
    return replace(engine, peak_bytes=memory.grown(before) if told is None else told)


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
