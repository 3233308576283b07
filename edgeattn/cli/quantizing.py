"""``quantize``: a float program on file, in a lower precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeattn.cli.app import A_JOB_S, Debug, Force, Json, Out, Patience, Quiet, Target, app
from edgeattn.cli.graphs import In, Inputs, Shapes, save, specs
from edgeattn.cli.ui import Ui
from edgeattn.errors import Unsupported, UsageError

if TYPE_CHECKING:
    from edgeattn.program import Case, Program
    from edgeattn.quantize import Judge

_JUDGED = 8  # calibration samples that the forms of a gate are judged on
_TOLD = {"activations": "activations in INT8", "weights": "weights in INT8"}
_TOLD |= {"layers": "layers with weights in the low type", "nodes": "nodes in it", "casts": "Casts", "border": "border"}
_TOLD |= {"cases": "cases that ranges were measured on", "bytes": "bytes before", "bytes_after": "bytes after"}


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
    gate: Annotated[
        str, typer.Option(help="Attention gates: float, int8, or auto: as the target is faster with.")
    ] = "float",
    ranges: Annotated[
        str, typer.Option(help="How ranges follow from the data: minmax, percentile, entropy or mse.")
    ] = "minmax",
    max_drop: Annotated[
        float | None, typer.Option(min=0, max=1, help="mixed: share of the task's metric that may be lost, like 0.01.")
    ] = None,
    sqnr: Annotated[float | None, typer.Option(help="mixed: dB that every output must keep, like 30.")] = None,
    minutes: Annotated[float | None, typer.Option(help="mixed: how long to search; it goes on the next time.")] = None,
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
    from edgeattn import backends, registry, storage
    from edgeattn.publish import guard
    from edgeattn.quantize import Budget, Settings, find
    from edgeattn.quantize import quantize as quantizer

    with Ui(as_json, quiet, [source], out, timeout) as ui:
        guard(out, [source])
        _refuse(scheme, calib, target, minutes, timeout)
        program = _with_cases(ui, storage.load(source, ui.warn), scheme, calib, inputs, shape or [])
        engine = registry.get("backends", backends.parse_target(target)[0])
        settings = Settings(gate, tuple(keep or ()), engine.qdq, ranges, Budget(max_drop, sqnr, minutes))
        judge = _judge(ui, target, program, calib, samples)
        given = partial(_data, ui, program, calib, pixels)

        def make(gate: str) -> Program:
            ui.listen("quantize" if calib is None else "calibrate", 0, None)
            return quantizer(program, scheme, backends.calibrator, given(samples), replace(settings, gate=gate), judge)

        result = make(gate) if gate != "auto" else _auto(make, program, target, given(_JUDGED))
        _require_int8(scheme, result.history[-1].notes)
        _require_precision(result, target, find(scheme).precision)
        (_save_ir if result.ir else save)(result, out, force)
        _tell(ui, out, target, result.history[-1].notes)


def _refuse(scheme: str, calib: str | None, target: str, minutes: float | None, timeout: float) -> None:
    """Refuse options that do not go together, before a file is read."""
    from edgeattn import backends
    from edgeattn.quantize import assert_runs_in, find

    if calib is not None and not find(scheme).calibrated:
        raise UsageError(f"{scheme} takes no calibration data", where="--calib", hint="leave --calib out")
    assert_runs_in(scheme, backends.parse_target(target)[0])
    if minutes is not None and 0 < timeout <= 60 * minutes:
        hint = "give a shorter search, or --timeout 0"
        raise UsageError(f"--timeout would end this after {timeout:g} s", where=f"--minutes {minutes:g}", hint=hint)


def _with_cases(
    ui: Ui, program: Program, scheme: str, calib: str | None, inputs: Path | None, shapes: list[str]
) -> Program:
    """The program with the cases that a scheme measures on; of one that measures on real data, that there is some."""
    from edgeattn import backends, drawing, storage
    from edgeattn import calib as calibration
    from edgeattn.quantize import find

    chosen = find(scheme)
    if calib is None and chosen.calibrated:
        raise UsageError("INT8 needs real data to calibrate on", where="--calib", hint=calibration.HINT)
    if chosen.precision == "fp16":  # its narrow range is measured, on inputs that the program takes
        wanted = drawing.Given(inputs, specs(shapes))
        return storage.with_reference(program, backends.oracle, given=wanted, warn=ui.warn)
    if inputs or shapes:
        option = "--inputs" if inputs else "--shape"
        raise UsageError(f"{scheme} measures nothing on inputs", where=option, hint=f"leave {option} out")
    return program


def _data(ui: Ui, program: Program, calib: str | None, pixels: str, most: int) -> Iterable[Case]:
    """At most so many calibration samples; none for a scheme that takes none."""
    from edgeattn import calib as calibration
    from edgeattn import graphs

    if calib is None:
        return ()
    taken = graphs.program_inputs(program)
    return calibration.cases(calib, taken, most, pixels, lambda done: ui.listen("calibrate", done, None))


def _require_int8(scheme: str, notes: Mapping[str, Any]) -> None:
    """Refuse to write a float graph under the name of an INT8 scheme."""
    if notes.get("weights", 1) or notes.get("activations", 1):
        return
    why = next((f" ({name}: {reason})" for name, reason in notes.get("kept_float", {}).items()), "")
    hint = "take int8-static, or a scheme of another precision" if scheme != "int8-static" else "ship it in float"
    raise Unsupported(f"{scheme} quantizes nothing in this model{why}", hint=hint)


def _require_precision(result: Program, target: str, precision: str) -> None:
    """Refuse to write for a board what its TensorRT has no type for; what else it would refuse, doctor mends."""
    from edgeattn import capabilities

    if not target.startswith("jetson"):
        return
    for found in capabilities.findings(result.graphs, target, precision):
        if found.check == "precision":
            raise Unsupported(found.reason, where=target, hint=found.hint)


def _tell(ui: Ui, out: Path, target: str, notes: Mapping[str, Any]) -> None:
    """What was quantized, what stayed in float and why, and what the scheme found out on its way."""
    from edgeattn.report import calibrating, searching

    for warning in notes.get("calibration", {}).get("warnings", ()):
        ui.warn(warning)
    ui.emit({"out": str(out), **notes})
    told = [(label, notes[key]) for key, label in _TOLD.items() if key in notes]
    kept = [(f"float: {name}", why) for name, why in notes.get("kept_float", {}).items()]
    kept += [(f"gate not a scale: {name}", why) for name, why in notes.get("gates_not_as_scales", {}).items()]
    if "gate_choice" in notes:
        ui.log(notes["gate_choice"]["said"])
    told += [("calibrated on", line)] if (line := calibrating.told(notes)) else []
    told += [("gates as scales", count)] if (count := notes.get("gates_as_scales")) else []
    rows = [("written for", target), *told, ("attention found", len(notes.get("attention", ()))), *kept]
    ui.table(("", ""), rows, title=str(out))
    for line in searching.told(notes):
        ui.log(line)
    if costs := searching.rows(notes):
        ui.table(searching.HEAD, costs, title="what INT8 costs")


def _judge(ui: Ui, target: str, program: Program, calib: str | None, samples: int) -> Judge:
    """Where a scheme that searches tries its candidates: the target, and the task where one calibrates."""
    from edgeattn import backends, budget
    from edgeattn import calib as calibration

    name, device = backends.parse_target(target)
    task = None if calib is None else calibration.task(calib)
    return budget.judge(name, backends.Options(device), program, task, samples, ui.listen)


def _save_ir(program: Program, out: Path, force: bool) -> None:
    """Publish OpenVINO IR: a directory with an .xml and a .bin a graph, and how they are wired."""
    from edgeattn import outside
    from edgeattn.publish import new_directory

    if out.suffix in (".onnx", ".xml"):
        hint = f"name a directory: -o {out.with_suffix('')}; nothing was written"
        raise UsageError("OpenVINO IR is two files a graph", where=f"-o {out}", hint=hint)
    with new_directory(out, force, mark=True) as work:
        for graph, (xml, weights) in program.ir.items():
            (work / f"{graph}.xml").write_bytes(xml)
            (work / f"{graph}.bin").write_bytes(weights)
        if program.wiring is not None:
            outside.write_wiring(program, work)


def _auto(make: Callable[[str], Program], program: Program, target: str, data: Iterable[Case]) -> Program:
    """Gates as the target is faster with, judged on calibration samples that the float program answers."""
    from edgeattn import backends, cases, decode, gating, registry

    name, device = backends.parse_target(target)
    engine: backends.Backend = registry.get("backends", name)
    gating.require(engine, backends.Options(device, "int8"))
    sessions = backends.oracle(program)
    drawn = [replace(case, name=f"real-{i}") for i, case in enumerate(data)]
    known = cases.answered(drawn, "source graph", lambda c: decode.run(sessions, program.wiring, c.feeds, c.tokens))
    float32 = replace(program, reference=known)
    return gating.settled(
        lambda gate: replace(make(gate), reference=known), float32, engine, backends.Options(device, "int8")
    )
