"""``export``, ``rewrite``, ``compile``: the stages one by one, on files; ``quantize`` is in its own file."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from edgeattn.cli import engine as engine_options
from edgeattn.cli.app import (
    A_JOB_S,
    FOREVER_S,
    Debug,
    Force,
    Json,
    OptionalOut,
    Out,
    Patience,
    Precision,
    Quiet,
    Target,
    Threads,
    app,
)
from edgeattn.cli.ui import Ui
from edgeattn.errors import EXIT_GATE_FAILED, Unsupported, UsageError

if TYPE_CHECKING:
    from edgeattn.backends import Backend, Options
    from edgeattn.profile import Bucket
    from edgeattn.program import Program, TensorSpec
    from edgeattn.report.schema import GateReport
    from edgeattn.report.schema import Precision as Ran

_SPAN = "NAME=LEAST:TYPICAL:LARGEST[,…]"
_INPUTS = "Real inputs: an .npz, one array per input, to judge on beside seeded ones."
Inputs = Annotated[Path | None, typer.Option(help=_INPUTS)]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", help="A shape that an input takes: x=1x3x224x224.", metavar="NAME=DIMS[:TYPE]"),
]
In = Annotated[Path, typer.Argument(metavar="IN", help="An .onnx file, or a program directory written by export.")]


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A model name, package.module:factory or path/to/file.py:factory.")],
    out: Out,
    weights: Annotated[
        str, typer.Option(help="default, none, or a state_dict: .safetensors, or of torch.save.")
    ] = "default",
    opset: Annotated[int, typer.Option(help="ONNX opset, 17 to 20.")] = 18,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Your module's input: x=1x3x224x224, or tokens=1x16:int64.", metavar="NAME=DIMS[:TYPE]"),
    ] = None,
    dynamic: Annotated[
        list[str] | None, typer.Option(help="A dynamic dimension: x:0=batch.", metavar="NAME:AXIS=DIM")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="Real inputs: an .npz of arrays named as forward() names them.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the inputs it is checked on.")] = 0,
    force: Force = False,
    timeout: Patience = FOREVER_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """PyTorch model -> ONNX, checked against eager PyTorch at two shapes or lengths."""
    from edgeattn import backends, decode, graphs, source
    from edgeattn import export as exporter
    from edgeattn.harness.parity import Limits, judge

    with Ui(as_json, quiet, out=out, timeout=timeout) as ui:
        ui.listen("export to ONNX", 0, None)
        said = source.Inputs(specs(shape or []), _dynamics(dynamic or []), inputs)
        found = source.resolve(model, weights, said)
        for note in found.notes:
            ui.warn(note)
        program = exporter.export(found.source, opset=opset, seed=seed, real=found.real)
        ui.listen("parity with eager PyTorch", 0, None)
        assert program.reference is not None
        sessions = backends.oracle(program)
        parity = judge(
            "export",
            lambda case: decode.run(sessions, program.wiring, case.feeds, case.tokens),
            program.reference.cases,
            Limits.of("fp32"),
        )
        for name, output in parity.outputs.items():
            if output.verdict == "fail":
                raise Unsupported(
                    f"the exported graph differs from PyTorch: {output.observed} in case '{output.worst_case}'",
                    where=f"output '{name}'",
                    hint="a size frozen by the exporter is the usual cause; nothing was written",
                )
        save(program, out, force)
        worst = max((o.max_abs or 0.0) for o in parity.outputs.values())
        ui.emit(
            {
                "out": str(out),
                "graphs": {g: [str(s) for s in graphs.input_specs(m)] for g, m in program.graphs.items()},
                "parity": parity.model_dump(mode="json"),
            },
            f"{out}: {', '.join(program.graphs)}; within {worst:.1e} of PyTorch on {parity.case_count} cases",
        )


@app.command()
def rewrite(
    source: In,
    out: OptionalOut = None,
    only: Annotated[list[str] | None, typer.Option(help="Apply this rule only (repeatable).")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave this rule out (repeatable).")] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Also apply a rule that changes how the model is used: split_loop, merge_loop (repeatable)."),
    ] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option(help="Fix a dimension: batch=1, or x:0=1 by input axis (repeatable).", metavar="NAME=SIZE"),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="Also try the rules that help on some engines only, timed on this one."),
    ] = None,
    threads: Threads = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change; write nothing.")] = False,
    inputs: Inputs = None,
    shape: Shapes = None,
    force: Force = False,
    timeout: Patience = A_JOB_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rewrite attention into standard operators that every engine runs fast; each rule is checked."""
    from edgeattn import backends, drawing, storage
    from edgeattn.cli.rewritten import show
    from edgeattn.publish import guard
    from edgeattn.rewrite import rewrite as rewriter

    with Ui(as_json, quiet, [source], out, timeout) as ui:
        if out is None and not dry_run:
            raise UsageError("nowhere to write", where="--out", hint="give -o OUT.onnx, or --dry-run to look only")
        if out is not None:
            guard(out, [source])
        chooser = _chooser(target, threads) if target else None
        given = drawing.Given(inputs, specs(shape or []))
        program = storage.with_reference(storage.load(source, ui.warn), backends.oracle, given=given, warn=ui.warn)
        with tempfile.TemporaryDirectory(prefix="edgeattn-undone-") as scratch:
            result = rewriter(
                program,
                backends.oracle,
                only=only or (),
                skip=skip or (),
                also=also or (),
                sizes=fixed_sizes(fix or []),
                chooser=chooser,
                progress=lambda line: ui.listen(line, 0, None),
                repro=Path(scratch),
            )
            left = None
            if out is not None and not dry_run:
                save(result, out, force)
                left = _left_beside(out, Path(scratch))
        show(ui, result, source, None if dry_run else out, left)


@app.command(name="compile")
def compile_(
    source: In,
    out: Out,
    target: Target,
    precision: Precision = "fp32",
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
    profile: Annotated[
        list[str] | None,
        typer.Option(
            help="Sizes of dynamic dimensions, for engines built for them; repeat for buckets.", metavar=_SPAN
        ),
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--engine", help="A setting of the engine's own.", metavar="KEY=VALUE")
    ] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="Measure the engine's settings here, and build with the fastest.")
    ] = False,
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
    from edgeattn import backends, drawing, progress, registry, storage
    from edgeattn import profile as profiles
    from edgeattn.cli import packing
    from edgeattn.errors import MissingPackage
    from edgeattn.harness.precision import audit, measured
    from edgeattn.publish import guard, new_directory
    from edgeattn.report import gates
    from edgeattn.rewrite import rewrite as rewriter

    with Ui(as_json, quiet, [source], out, timeout) as ui:
        name, device = backends.parse_target(target)
        if precision not in ("fp32", "fp16", "bf16", "int8"):
            raise UsageError(f"unknown precision '{precision}'", where="--precision", hint="fp32, fp16, bf16 or int8")
        backend = registry.get("backends", name)
        if not backend.probe().available:
            raise MissingPackage(name, backend.extra, why=backend.probe().why)
        guard(out, [source])
        options = backends.Options(device, precision, threads)
        options = engine_options.asked(backend, options, hint, buckets, lengths, stateful, blob)
        given = drawing.Given(inputs, specs(shape or []))
        program = storage.with_reference(storage.load(source, ui.warn), backends.oracle, given=given, warn=ui.warn)
        if fix:
            program = rewriter(program, backends.oracle, only=("fix_sizes",), sizes=fixed_sizes(fix))
        own, spans = _settings(setting or []), _buckets(profile or [])
        options = replace(options, profiles=spans, settings=own)
        backends.check_settings(backend, options, "--engine", "--profile")
        if backend.profiled:
            options = replace(options, profiles=profiles.complete(program, spans))
            program = replace(program, reference=profiles.within(program, options.profiles))
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
                _refused(ui, target, ran, gate)
            runs = backend.executes(options)
            place = packing.deliver(work, program, engine, source.stem, target)
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
            f"{out}: {target}, {precision} as its graphs declare it{_sized(options)}; {runs.why}; {runs.hint}"
            if backend.kit
            else f"{out}: {target}, asked for {precision}, runs in {ran.effective}; {engine.seconds:.1f} s"
            + _sized(options)
            + ("" if runs.available else f"; built, not run: {runs.why}"),
        )
        engine_options.tell(ui, engine, place)


def _sized(options: Options) -> str:
    """The sizes an engine was built for, where it was."""
    from edgeattn.profile import words

    told = " or ".join(filter(None, map(words, options.profiles)))
    return f"; takes {told} (--profile sets others)" if told else ""


def _refused(ui: Ui, target: str, ran: Ran, gate: GateReport) -> NoReturn:
    """Say what runs instead, publish nothing, and leave as a failed gate does."""
    told = {"precision": ran.model_dump(mode="json"), "gate": gate.model_dump(mode="json")}
    ui.emit({"out": None, "target": target, **told})
    hint = "quantize the graph first" if ran.requested == "int8" else f"compile it with --precision {ran.effective}"
    ui.warn(f"{gate.why}; {hint}, or see `edgeattn explain-latency`; nothing was written")
    raise typer.Exit(EXIT_GATE_FAILED)


def _tuned(ui: Ui, program: Program, backend: Backend, options: Options) -> tuple[Options, list[dict[str, Any]]]:
    """The fastest options, and each setting that was tried, for people and for programs."""
    from edgeattn import tune
    from edgeattn.harness.limits import Limits

    ui.listen("measure the engine's settings", 0, None)
    options, tried = tune.settings(program, backend, options, tune.within(program, Limits.of(options.precision)))
    for setting, choice in tried:
        ui.listen(f"{setting}: {choice}", 0, None)
    return options, [{"setting": setting, **asdict(choice)} for setting, choice in tried]


def _buckets(texts: list[str]) -> tuple[Bucket, ...]:
    """``--profile`` options: one bucket each."""
    from edgeattn.profile import parse_bucket

    try:
        return tuple(parse_bucket(text) for text in texts)
    except ValueError as error:
        raise UsageError(str(error), where="--profile") from None


def _settings(texts: list[str]) -> dict[str, Any]:
    """``--engine`` options by name; values are YAML, as in a recipe."""
    from edgeattn import plainyaml

    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError("expected KEY=VALUE", where=f"--engine {text}", hint="like --engine strip=true")
        found[name] = plainyaml.read(value, f"--engine {text}")[0]
    return found


def fixed_sizes(texts: list[str]) -> dict[str, int]:
    """``batch=1`` or ``x:0=1`` as a name and a size."""
    sizes: dict[str, int] = {}
    for text in texts:
        name, equals, size = text.rpartition("=")
        if not equals or not name or not size.isascii() or not size.isdecimal() or not 0 < int(size) < 2**31:
            raise UsageError("expected NAME=SIZE", where=f"--fix {text}", hint="like batch=1, or x:0=1 by input axis")
        if sizes.setdefault(name, int(size)) != int(size):
            raise UsageError(f"'{name}' is fixed twice, at {sizes[name]} too", where=f"--fix {text}")
    return sizes


def _chooser(target: str, threads: int) -> Any:
    """Times a program before and after a rule on the target, which must be here."""
    from edgeattn import backends, choose, registry
    from edgeattn.backends._common import usable_cores
    from edgeattn.errors import MissingPackage

    name, device = backends.parse_target(target)
    backend = registry.get("backends", name)
    if not backend.probe().available:
        raise MissingPackage(name, backend.extra, why=backend.probe().why)
    options = backends.Options(device, "fp32", threads or usable_cores())
    backends.require_running(backend, options, "the timing of rules")
    return choose.by_latency(name, options)


def specs(texts: list[str]) -> list[TensorSpec]:
    """``--shape`` options as the shapes of inputs."""
    from edgeattn.recipe import parse_spec

    found: dict[str, TensorSpec] = {}
    for text in texts:
        name, equals, dims = text.partition("=")
        try:
            if not equals:
                raise ValueError("expected NAME=DIMS, like x=1x3x224x224")
            found[name] = parse_spec(name, dims)
        except ValueError as error:
            raise UsageError(str(error), where=f"--shape {text}") from None
    return list(found.values())


def _dynamics(texts: list[str]) -> list[tuple[str, int, str]]:
    from edgeattn.recipe import parse_dynamic

    try:
        return [parse_dynamic(text) for text in texts]
    except ValueError as error:
        raise UsageError(str(error), where="--dynamic") from None


def save(program: Program, out: Path, force: bool) -> None:
    """Publish a program: a file for one graph, a directory for several."""
    from edgeattn import storage
    from edgeattn.publish import free_name, new_directory, new_file

    if program.wiring is not None and out.suffix == ".onnx":
        hint = f"name a directory: -o {out.with_suffix('')}; nothing was written"
        raise UsageError(f"the result is {len(program.graphs)} graphs and their wiring", where=f"-o {out}", hint=hint)
    if program.wiring is None:
        with new_file(out, force) as file:
            storage.save(program, file, free_name(out.with_name(f"{out.name}.data")))
        return
    with new_directory(out, force, mark=True) as work:
        storage.save(program, work)


def _left_beside(out: Path, found: Path) -> Path | None:
    """Publish what was left of undone rules as ``OUT.undone``, in place of an earlier one of ours; its path."""
    from edgeattn.publish import MARKER, free_name, new_directory

    if not any(found.iterdir()):
        return None
    target = out.with_name(f"{out.name}.undone")
    if not (target / MARKER).exists():
        target = out.with_name(free_name(target))
    with new_directory(target, force=True, mark=True) as work:
        shutil.copytree(found, work, dirs_exist_ok=True)
    return target
