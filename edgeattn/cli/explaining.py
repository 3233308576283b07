"""``explain-latency``: where the time of an engine goes, and whether INT8 pays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeattn.cli.app import A_JOB_S, Debug, Json, Patience, Quiet, Threads, app
from edgeattn.cli.graphs import Inputs, Shapes, specs
from edgeattn.cli.ui import Ui

if TYPE_CHECKING:
    from edgeattn.report.timing import Ship, TimeReport
    from edgeattn.slowness import Subject

_TARGET = "onnxruntime or openvino[:cpu]; else what a run or bundle was built for."
_PRECISION = "What the engine is asked to compute in; else as it was built, or as the graph shows."
_AGAINST = "The float model to race INT8 against; else it is read off the quantized one."


@app.command(name="explain-latency")
def explain_latency(
    source: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A run directory, a bundle or an .onnx.")],
    target: Annotated[str, typer.Option("--target", "-t", help=_TARGET)] = "",
    precision: Annotated[str, typer.Option(help=_PRECISION)] = "",
    threads: Threads = 0,
    inputs: Inputs = None,
    shape: Shapes = None,
    against: Annotated[Path | None, typer.Option(help=_AGAINST)] = None,
    pairs: Annotated[int, typer.Option(min=0, help="Rounds of INT8 beside float; 0: do not race.")] = 60,
    top: Annotated[int, typer.Option(min=1, help="Nodes and modules to list.")] = 10,
    timeout: Patience = A_JOB_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Why is INT8 not faster? What an engine really executes, by time, and what to do about each cause."""
    from edgeattn import drawing, slowness, storage

    with Ui(as_json, quiet, [source], timeout=timeout) as ui:
        asked = slowness.Asked(target, precision, threads, drawing.Given(inputs, specs(shape or [])))
        ui.listen("open the model", 0, None)
        subject = slowness.find(source, asked, ui.warn)
        other = storage.load(against, ui.warn) if against else None
        ui.listen("profile", 0, None)
        found = slowness.explain(subject, top)
        ship = None
        if subject.options.precision == "int8" and pairs:
            ship = slowness.ship(subject, other, max(pairs, 20), listen=ui.listen)
        ui.emit(
            {
                "source": str(source),
                "target": subject.target,
                "precision": subject.options.precision,
                **found.model_dump(mode="json"),
                "ship": None if ship is None else ship.model_dump(mode="json"),
            }
        )
        _show(ui, subject, found, ship, top)


def _show(ui: Ui, subject: Subject, found: TimeReport, ship: Ship | None, top: int) -> None:
    """Tables for a person: nodes, modules, then causes, which are what matters, at the end."""
    from edgeattn.report import wording as w

    nodes = [
        (n.node, n.op, n.precision, n.kernel, w.milliseconds(n.milliseconds), w.percent(n.share, 1), n.module)
        for n in found.nodes
    ]
    ui.table(("node", "engine's op", "runs in", "kernel", "time", "share", "module"), nodes, "nodes by time")
    whole = found.total_ms or 1.0
    grouped = [
        *(("attention", name, spent) for name, spent in list(found.attention.items())[:top]),
        *(("module", name, spent) for name, spent in found.modules.items() if spent),
    ]
    rows = [(what, name, w.milliseconds(spent), w.percent((spent or 0.0) / whole, 1)) for what, name, spent in grouped]
    ui.table(("of", "", "time", "share"), rows, "time together")
    causes = [
        (c.cause, w.milliseconds(c.milliseconds), w.percent(c.share, 1), str(c.count), _why(c.why, c.macs_share), c.do,
         ", ".join((c.modules or c.nodes)[:3]))
        for c in found.causes
    ]  # fmt: skip
    heads = ("cause", "costs", "share", "nodes", "why", "what to do", "most of it in")
    ui.table(heads, causes, "what costs time beside the work, the costliest first")
    if ui.as_json:
        return
    isa = ", ".join(found.isa) or "none that speeds up INT8"
    asked = f"{subject.target}, asked for {subject.options.precision}"
    ui.emit(None, f"{asked}: {w.time_in_words(found)}; instruction sets: {isa}")
    for line in found.warnings:
        ui.warn(line)
    if ship is not None:
        ui.emit(None, ship.why)


def _why(text: str, macs: float | None) -> str:
    from edgeattn.report import wording as w

    return text if macs is None else f"{text} ({w.percent(macs, 1)} of the multiply-accumulates)"
