"""``quantize``: a float program on file, in a lower precision."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from edgeattn.cli.app import A_JOB_S, Debug, Force, Json, Out, Patience, Quiet, Target, app
from edgeattn.cli.stages import In, save
from edgeattn.cli.ui import Ui
from edgeattn.errors import UsageError

if TYPE_CHECKING:
    from edgeattn.program import Case

_TOLD = {"activations": "activations in INT8", "weights": "weights in INT8"}


@app.command()
def quantize(
    source: In,
    out: Out,
    scheme: Annotated[str, typer.Option(help="A name of `edgeattn list schemes`.")] = "int8-static",
    calib: Annotated[
        str | None,
        typer.Option(
            help="Real data: an .npz with one array per input, a folder of images, your file.py:function that yields "
            "samples, a task's name, or your task's file.py."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Calibration samples taken at most.")] = 300,
    pixels: Annotated[
        str,
        typer.Option(
            help="How an image folder's pixels become input values: imagenet, unit (0 to 1), signed (-1 to 1), raw "
            "(0 to 255) or MEAN/STD; then :bgr where blue comes first."
        ),
    ] = "",
    keep: Annotated[
        list[str] | None, typer.Option(help="Keep nodes or modules matching this pattern in float (repeatable).")
    ] = None,
    gate: Annotated[str, typer.Option(help="How attention gates are treated: float.")] = "float",
    ranges: Annotated[
        str, typer.Option(help="How ranges follow from the data: minmax, percentile, entropy or mse.")
    ] = "minmax",
    target: Target = "onnxruntime",
    force: Force = False,
    timeout: Patience = A_JOB_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """FP32 ONNX -> ONNX of a lower precision in standard operators, attention gates kept in float."""
    from edgeattn import backends, graphs, registry, storage
    from edgeattn import calib as calibration
    from edgeattn.publish import guard
    from edgeattn.quantize import Settings, find
    from edgeattn.quantize import quantize as quantizer
    from edgeattn.report import calibrating

    with Ui(as_json, quiet, [source], out, timeout) as ui:
        guard(out, [source])
        calibrated = find(scheme).calibrated
        if calib is not None and not calibrated:
            raise UsageError(f"{scheme} takes no calibration data", where="--calib", hint="leave --calib out")
        program = storage.load(source, ui.warn)
        if calib is None and calibrated:
            raise UsageError(
                "INT8 needs real data to calibrate on",
                where="--calib",
                hint=calibration.HINT,
            )
        engine = registry.get("backends", backends.parse_target(target)[0])
        settings = Settings(gate, tuple(keep or ()), engine.qdq, ranges)
        data: Iterable[Case] = ()
        ui.listen("quantize" if calib is None else "calibrate", 0, None)
        if calib is not None:
            specs = graphs.program_inputs(program)
            data = calibration.cases(calib, specs, samples, pixels, lambda done: ui.listen("calibrate", done, None))
        result = quantizer(program, scheme, backends.calibrator, data, settings)
        save(result, out, force)
        notes = result.history[-1].notes
        for warning in notes.get("calibration", {}).get("warnings", ()):
            ui.warn(warning)
        ui.emit({"out": str(out), **notes})
        told = [(label, notes[key]) for key, label in _TOLD.items() if key in notes]
        kept = [(f"float: {name}", why) for name, why in notes.get("kept_float", {}).items()]
        told += [("calibrated on", line)] if (line := calibrating.told(notes)) else []
        rows = [*told, ("attention found", len(notes.get("attention", ()))), *kept]
        ui.table(("", ""), rows, title=str(out))
