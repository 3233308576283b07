"""``quantize``: a float program on file, in a lower precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeattn.cli.app import A_JOB_S, Debug, Force, Json, Out, Patience, Quiet, Target, app
from edgeattn.cli.stages import In, save
from edgeattn.cli.ui import Ui
from edgeattn.errors import UsageError

if TYPE_CHECKING:
    from edgeattn.program import Case, Program
    from edgeattn.quantize import Judge

_JUDGED = 8  # calibration cases that the forms of a gate are judged on
_TOLD = {"samples": "samples", "activations": "activations in INT8", "weights": "weights in INT8"}


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
    gate: Annotated[
        str, typer.Option(help="Attention gates: float, int8, or auto: as the target is faster with.")
    ] = "float",
    ranges: Annotated[str, typer.Option(help="How ranges follow from the data: minmax.")] = "minmax",
    max_drop: Annotated[
        float | None, typer.Option(min=0, max=1, help="mixed: share of the task's metric that may be lost, like 0.01.")
    ] = None,
    sqnr: Annotated[float | None, typer.Option(help="mixed: dB that every output must keep, like 30.")] = None,
    minutes: Annotated[float | None, typer.Option(help="mixed: how long to search; it goes on the next time.")] = None,
    target: Target = "onnxruntime",
    force: Force = False,
    timeout: Patience = A_JOB_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """FP32 ONNX -> ONNX of a lower precision in standard operators, attention gates kept in float."""
    from edgeattn import backends, registry, storage
    from edgeattn.publish import guard
    from edgeattn.quantize import Budget, Settings, assert_runs_in, find
    from edgeattn.quantize import quantize as quantizer
    from edgeattn.report import searching

    with Ui(as_json, quiet, [source], out, timeout) as ui:
        guard(out, [source])
        calibrated = find(scheme).calibrated
        if calib is not None and not calibrated:
            raise UsageError(f"{scheme} takes no calibration data", where="--calib", hint="leave --calib out")
        assert_runs_in(scheme, backends.parse_target(target)[0])
        if minutes is not None and 0 < timeout <= 60 * minutes:
            hint = "give a shorter search, or --timeout 0"
            raise UsageError(f"--timeout would end this after {timeout:g} s", where=f"--minutes {minutes:g}", hint=hint)
        program = storage.load(source, ui.warn)
        if calib is None and calibrated:
            raise UsageError(
                "INT8 needs real data to calibrate on",
                where="--calib",
                hint="give data.npz with one array per input, samples on axis 0, a task name, or your task.py",
            )
        engine = registry.get("backends", backends.parse_target(target)[0])
        settings = Settings(gate, tuple(keep or ()), engine.qdq, ranges, Budget(max_drop, sqnr, minutes))
        judge = _judge(ui, target, program, calib, samples)

        def make(gate: str) -> Program:
            data = () if calib is None else _calibration(calib, program, samples)
            ui.listen("quantize" if calib is None else "calibrate", 0, None)
            return quantizer(program, scheme, backends.oracle, data, replace(settings, gate=gate), judge)

        result = make(gate) if gate != "auto" else _auto(make, program, target, calib)
        (_save_ir if result.ir else save)(result, out, force)
        notes = result.history[-1].notes
        ui.emit({"out": str(out), **notes})
        told = [(label, notes[key]) for key, label in _TOLD.items() if key in notes]
        kept = [(f"float: {name}", why) for name, why in notes.get("kept_float", {}).items()]
        if "gate_choice" in notes:
            ui.log(notes["gate_choice"]["said"])
        rows = [*told, ("attention found", len(notes.get("attention", ()))), *kept]
        ui.table(("", ""), rows, title=str(out))
        for line in searching.told(notes):
            ui.log(line)
        if costs := searching.rows(notes):
            ui.table(searching.HEAD, costs, title="what INT8 costs")


def _judge(ui: Ui, target: str, program: Program, calib: str | None, samples: int) -> Judge:
    """Where a scheme that searches tries its candidates: the target, and the task where one calibrates."""
    from edgeattn import backends, budget, tasks

    name, device = backends.parse_target(target)
    task = None if calib is None or calib.endswith(".npz") else tasks.find(calib)
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


def _auto(make: Callable[[str], Program], program: Program, target: str, calib: str | None) -> Program:
    """Gates as the target is faster with, judged on calibration samples that the float program answers."""
    from edgeattn import backends, cases, decode, gating, registry

    name, device = backends.parse_target(target)
    engine: backends.Backend = registry.get("backends", name)
    gating.require(engine)
    given = islice(() if calib is None else _calibration(calib, program, _JUDGED), _JUDGED)
    sessions = backends.oracle(program)
    drawn = [replace(case, name=f"real-{i}") for i, case in enumerate(given)]
    known = cases.answered(drawn, "source graph", lambda c: decode.run(sessions, program.wiring, c.feeds, c.tokens))
    float32 = replace(program, reference=known)
    return gating.settled(
        lambda gate: replace(make(gate), reference=known), float32, engine, backends.Options(device, "int8")
    )


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
