"""``export`` and ``rewrite``: stages one by one, on files; ``quantize`` and ``compile`` have their own."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeattn.cli.app import (
    A_JOB_S,
    FOREVER_S,
    Debug,
    Force,
    Json,
    OptionalOut,
    Out,
    Patience,
    Quiet,
    Threads,
    app,
)
from edgeattn.cli.graphs import In, Inputs, Shapes, fixed_sizes, save, specs
from edgeattn.cli.ui import Ui
from edgeattn.errors import Unsupported, UsageError

if TYPE_CHECKING:
    from edgeattn.program import Program
    from edgeattn.report.schema import StageParity


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
    from edgeattn import export as exporter
    from edgeattn import graphs, source

    with Ui(as_json, quiet, out=out, timeout=timeout) as ui:
        ui.listen("export to ONNX", 0, None)
        said = source.Inputs(specs(shape or []), _dynamics(dynamic or []), inputs)
        found = source.resolve(model, weights, said)
        for note in found.notes:
            ui.warn(note)
        program = exporter.export(found.source, opset=opset, seed=seed, real=found.real)
        ui.listen("parity with eager PyTorch", 0, None)
        parity = _same_as_pytorch(program)
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


def _same_as_pytorch(program: Program) -> StageParity:
    """How far the graphs are from eager PyTorch on the cases that it answered.

    Raises:
        Unsupported: further than rounding explains.
    """
    from edgeattn import backends, decode
    from edgeattn.harness.parity import Limits, judge

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
    return parity


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
        given = drawing.Given(inputs, specs(shape or []))
        loaded = storage.load(source, ui.warn)
        chooser = _chooser(target, threads, loaded) if target else None
        program = storage.with_reference(loaded, backends.oracle, given=given, warn=ui.warn)
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


def _chooser(target: str, threads: int, program: Program) -> Any:
    """Times a program before and after a rule on the target, which must be here; one with INT8 weights as INT8."""
    from edgeattn import backends, choose, graphs
    from edgeattn.backends._common import usable_cores

    backend, device = backends.installed(target)
    precision = "int8" if any(map(graphs.packed_weights, program.graphs.values())) else "fp32"
    options = backends.Options(device, precision, threads or usable_cores())
    backends.require_running(backend, options, "the timing of rules")
    return choose.by_latency(backend.name, options)


def _dynamics(texts: list[str]) -> list[tuple[str, int, str]]:
    from edgeattn.recipe import parse_dynamic

    try:
        return [parse_dynamic(text) for text in texts]
    except ValueError as error:
        raise UsageError(str(error), where="--dynamic") from None


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
