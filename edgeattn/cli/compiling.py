"""``compile``: a graph becomes a target's engine, in a bundle that says what really runs in it."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from edgeattn.cli import engine as engine_options
from edgeattn.cli.app import A_JOB_S, Debug, Force, Json, Out, Patience, Precision, Quiet, Target, Threads, app
from edgeattn.cli.stages import In, Inputs, Shapes, fixed_sizes, specs
from edgeattn.cli.ui import Ui
from edgeattn.errors import EXIT_GATE_FAILED, Unsupported
from edgeattn.target import require_precision

if TYPE_CHECKING:
    from edgeattn.backends import Backend, Engine, Options
    from edgeattn.program import Program
    from edgeattn.report.schema import GateReport
    from edgeattn.report.schema import Precision as Ran


@app.command(name="compile")
def compile_(
    source: In,
    out: Out,
    target: Target,
    precision: Precision = "",
    least: Annotated[
        float | None,
        typer.Option("--min-share", min=0, max=1, help="Work that must run in the precision asked for; else half."),
    ] = None,
    threads: Threads = 0,
    fix: engine_options.Fix = None,
    hint: engine_options.Hint = "latency",
    buckets: engine_options.Buckets = "",
    lengths: engine_options.Lengths = None,
    stateful: engine_options.Stateful = None,
    blob: engine_options.Blob = False,
    profile: engine_options.Profile = None,
    setting: engine_options.Setting = None,
    tune: engine_options.Tune = False,
    inputs: Inputs = None,
    shape: Shapes = None,
    force: Force = False,
    timeout: Patience = A_JOB_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """ONNX -> engine bundle for a target; exit 1, and no bundle, if another precision runs than was asked for.

    For a Jetson it is a build kit, which is finished on the board."""
    from edgeattn import backends, drawing, progress, storage, twin
    from edgeattn.cli import packing
    from edgeattn.harness.precision import audit, measured
    from edgeattn.publish import guard, new_directory
    from edgeattn.report import gates
    from edgeattn.rewrite import rewrite as rewriter

    with Ui(as_json, quiet, [source], out, timeout) as ui:
        if precision:
            require_precision(precision)
        backend, device = backends.installed(target)
        guard(out, [source])
        options = backends.Options(device, precision or "fp32", threads)
        options = engine_options.asked(backend, options, hint, buckets, lengths, stateful, blob)
        loaded = storage.load(source, ui.warn)
        precision = precision or twin.shown(loaded.graphs.values())
        options = replace(options, precision=precision)
        given = drawing.Given(inputs, specs(shape or []))
        program = storage.with_reference(loaded, backends.oracle, given=given, warn=ui.warn)
        if fix:
            program = rewriter(program, backends.oracle, only=("fix_sizes",), sizes=fixed_sizes(fix))
        program, options = engine_options.sized(backend, program, options, profile or [], setting or [])
        for refusal in backend.unsupported(program, options):
            raise Unsupported(refusal.reason, where=f"{target}: graph '{refusal.graph}'", hint=refusal.hint)
        tried: list[dict[str, Any]] = []
        if tune:
            options, tried = _tuned(ui, program, backend, options)
        ui.listen(f"compile for {target}", 0, None)
        with new_directory(out, force, mark=backend.kit) as work:
            directory = work if backend.kit else work / "engine"
            directory.mkdir(exist_ok=True)
            with progress.heard_by(ui.listen):
                engine = backend.compile(program, options, directory)
            ran = audit(precision, engine.effective)
            gate = gates.precision(ran, True if least is None else least)
            if gate.verdict == "fail":
                _refused(ui, target, ran, gate, twin.shown(program.graphs.values()))
            place = packing.deliver(work, program, engine, source.stem, target)
        runs = backend.executes(options)
        ui.emit(
            {
                "out": str(out),
                "target": target,
                "seconds": engine.seconds,
                "precision": ran.model_dump(mode="json"),
                "gate": gate.model_dump(mode="json"),
                "tuned": tried,
                "execution": {"ran": runs.available, "why": runs.why, "answered_by": place},
                "build": measured(engine.effective),
                "engine": dict(engine.effective),
                "buckets": list(options.buckets),
            },
            f"{out}: {target}, {_told(backend, engine, ran)}",
        )
        engine_options.tell(ui, engine, place)


def _told(backend: Backend, engine: Engine, ran: Ran) -> str:
    """What was asked for and what came of it, in a line."""
    from edgeattn.profile import words
    from edgeattn.report.gates import NOT_COMPILED

    spans = " or ".join(filter(None, map(words, engine.options.profiles)))
    takes = f"; takes {spans} (--profile sets others)" if spans else ""
    runs = backend.executes(engine.options)
    if backend.kit:
        return f"{ran.requested} as its graphs declare it{takes}; {runs.why}; {runs.hint}"
    built = "" if runs.available else f"; built, not run: {runs.why}"
    if ran.effective == NOT_COMPILED:
        return f"{ran.requested}, as IR that the device compiles{takes}{built}"
    return f"asked for {ran.requested}, runs in {ran.effective}; {engine.seconds:.1f} s{takes}{built}"


def _refused(ui: Ui, target: str, ran: Ran, gate: GateReport, shown: str) -> NoReturn:
    """Say what runs instead of what the graph shows, publish nothing, and leave as a failed gate does."""
    told = {"precision": ran.model_dump(mode="json"), "gate": gate.model_dump(mode="json")}
    ui.emit({"out": None, "target": target, **told})
    hint = _way_out(target, ran, shown)
    ui.warn(f"{gate.why}; {hint}, or see `edgeattn explain-latency`; nothing was written")
    raise typer.Exit(EXIT_GATE_FAILED)


def _way_out(target: str, ran: Ran, shown: str) -> str:
    """What makes the engine run in what was asked for, or lets its bundle be called by what it does run in."""
    from edgeattn.target import PRECISIONS

    as_it_is = ran.effective if ran.effective in PRECISIONS else "fp32"
    if ran.requested != "int8":
        return f"compile it with --precision {as_it_is}"
    if shown != "int8":
        return "quantize the graph first"
    return (
        f"quantize the float model for it (edgeattn quantize -t {target}), or take it as it is: --precision {as_it_is}"
    )


def _tuned(ui: Ui, program: Program, backend: Backend, options: Options) -> tuple[Options, list[dict[str, Any]]]:
    """The fastest options, and each setting that was tried, for people and for programs."""
    from edgeattn import tune
    from edgeattn.harness.limits import Limits

    ui.listen("measure the engine's settings", 0, None)
    options, tried = tune.settings(program, backend, options, tune.within(program, Limits.of(options.precision)))
    for setting, choice in tried:
        ui.listen(f"{setting}: {choice}", 0, None)
    return options, [{"setting": setting, **asdict(choice)} for setting, choice in tried]
