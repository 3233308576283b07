"""``quantize``: a float program on file, in a lower precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeattn.cli.app import A_JOB_S, Debug, Force, Json, Out, Patience, Quiet, Target, app
from edgeattn.cli.stages import In, Inputs, Shapes, save, specs
from edgeattn.cli.ui import Ui
from edgeattn.errors import UsageError

if TYPE_CHECKING:
    from edgeattn.program import Case, Program

_TOLD = {"samples": "samples", "activations": "activations in INT8", "weights": "weights in INT8"}
_TOLD |= {"layers": "layers with weights in the low type", "nodes": "nodes in it", "casts": "Casts", "border": "border"}
_TOLD |= {"cases": "cases that ranges were measured on", "bytes": "bytes before", "bytes_after": "bytes after"}


@app.command()
def quantize(
    source: In,
    out: Out,
    scheme: Annotated[str, typer.Option(help="A name of `edgeattn list schemes`.")] = "int8-static",
    calib: Annotated[
        str | None,
        typer.Option(help="Real data: an .npz with one array per input, a task's name, or your task's file.py."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Calibration samples taken from a task.")] = 300,
    keep: Annotated[
        list[str] | None, typer.Option(help="Keep nodes or modules matching this pattern in float (repeatable).")
    ] = None,
    gate: Annotated[str, typer.Option(help="How attention gates are treated: float.")] = "float",
    ranges: Annotated[str, typer.Option(help="How ranges follow from the data: minmax.")] = "minmax",
    target: Target = "onnxruntime",
    inputs: Inputs = None,
    shape: Shapes = None,
    force: Force = False,
    timeout: Patience = A_JOB_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """FP32 ONNX -> ONNX of a lower precision in standard operators, attention gates kept in float."""
    from edgeattn import backends, drawing, registry, storage
    from edgeattn.publish import guard
    from edgeattn.quantize import Settings, find
    from edgeattn.quantize import quantize as quantizer

    with Ui(as_json, quiet, [source], out, timeout) as ui:
        guard(out, [source])
        chosen = find(scheme)
        calibrated = chosen.calibrated
        if calib is not None and not calibrated:
            raise UsageError(f"{scheme} takes no calibration data", where="--calib", hint="leave --calib out")
        program = storage.load(source, ui.warn)
        if calib is None and calibrated:
            raise UsageError(
                "INT8 needs real data to calibrate on",
                where="--calib",
                hint="give data.npz with one array per input, samples on axis 0, a task name, or your task.py",
            )
        if chosen.precision == "fp16":  # its narrow range is measured, on inputs that the program takes
            given = drawing.Given(inputs, specs(shape or []))
            program = storage.with_reference(program, backends.oracle, given=given, warn=ui.warn)
        elif inputs or shape:
            option = "--inputs" if inputs else "--shape"
            raise UsageError(f"{scheme} measures nothing on inputs", where=option, hint=f"leave {option} out")
        engine = registry.get("backends", backends.parse_target(target)[0])
        settings = Settings(gate, tuple(keep or ()), engine.qdq, ranges)
        data = () if calib is None else _calibration(calib, program, samples)
        ui.listen("quantize" if calib is None else "calibrate", 0, None)
        result = quantizer(program, scheme, backends.oracle, data, settings)
        save(result, out, force)
        notes = result.history[-1].notes
        ui.emit({"out": str(out), **notes})
        told = [(label, notes[key]) for key, label in _TOLD.items() if key in notes]
        kept = [(f"float: {name}", why) for name, why in notes.get("kept_float", {}).items()]
        rows = [*told, ("attention found", len(notes.get("attention", ()))), *kept]
        ui.table(("", ""), rows, title=str(out))


def _calibration(calib: str, program: Program, samples: int) -> Iterator[Case]:
    """Calibration cases from an .npz or a task's training split."""
    from edgeattn import tasks
    from edgeattn.arrays import check_feeds, read_npz
    from edgeattn.graphs import program_inputs
    from edgeattn.program import Case

    specs = program_inputs(program)
    if not calib.endswith(".npz"):
        for batch in tasks.find(calib).train(samples, 4):
            check_feeds(batch.feeds, specs, f"task {calib}")
            yield Case("calibration", batch.feeds, batch.tokens)
        return
    data = read_npz(Path(calib), specs)
    for start in range(len(next(iter(data.values()), []))):
        yield Case("calibration", {name: value[start : start + 1] for name, value in data.items()})
