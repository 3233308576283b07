"""``run``, ``check``, ``report``: the main job, its gate in CI, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeattn.cli import matrices
from edgeattn.cli.app import A_JOB_S, FOREVER_S, Debug, Force, Json, OptionalOut, Patience, Quiet, app
from edgeattn.cli.ui import Ui
from edgeattn.errors import EXIT_GATE_FAILED, EXIT_OK, VERDICT_CODES, BadInput, UsageError

if TYPE_CHECKING:
    from edgeattn.report.schema import Report

Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe key, e.g. latency.pairs=50.")
]


Targets = Annotated[
    str | None, typer.Option(metavar="A,B,…", help="Build for all of these, e.g. openvino:cpu,tensorrt-rtx:sm89,sm120.")
]
Precisions = Annotated[
    str | None, typer.Option(metavar="A,B,…", help="Each target in all of these: fp32, fp16, bf16, int8.")
]
AllowRefused = Annotated[
    bool, typer.Option("--allow-refused", help="A target that is refused with a reason does not count as failed.")
]


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or its name in ./export_configs.")],
    out: OptionalOut = None,
    settings: Settings = None,
    targets: Targets = None,
    precisions: Precisions = None,
    allow_refused: AllowRefused = False,
    force: Force = False,
    timeout: Patience = FOREVER_S,
    shelf: Annotated[Path | None, typer.Option(hidden=True)] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Recipe -> engine bundle and report; exit 1 if a gate fails, 75 if one cannot be settled.

    With --targets: a bundle and a report for each, in a directory of its own, and one table; --timeout is for each.
    An engine for another machine is built and judged as far as that goes without running it: the verdict is built.
    """
    from edgeattn.recipe import Recipe, find

    if targets is not None or precisions is not None:
        matrices.run(recipe, out, settings or [], targets, precisions, allow_refused, force, timeout, as_json, quiet)
    if allow_refused:
        raise UsageError("goes with --targets", where="--allow-refused", hint="leave it out, or name targets")
    with matrices.word_left(shelf, out), Ui(as_json, quiet, out=out, timeout=timeout) as ui:
        path = find(recipe)
        wanted = Recipe.load(path).with_overrides(settings or [])
        name = path.name.removesuffix(".yaml").removesuffix(".yml")
        directory = out or Path("runs") / name
        if out is None:
            directory.parent.mkdir(exist_ok=True)
        from edgeattn import pipeline
        from edgeattn.shelf import Shelf

        result = pipeline.run(wanted, directory, name=name, force=force, listen=ui.listen, shelf=Shelf(shelf))
        ui.emit(result.model_dump(mode="json"))
        show(ui, result)
        if not (directory / "report.html").exists():
            ui.warn("no report.html: it needs matplotlib and jinja2; pip install 'edgeattn[report]'")
        ui.log(f"written: {directory}: {', '.join(sorted(p.name for p in directory.iterdir()))}")
    raise typer.Exit(VERDICT_CODES[result.verdict])


@app.command()
def check(
    directory: Annotated[
        Path, typer.Argument(help="A run directory, one of several targets, a bundle, or a build kit that came back.")
    ],
    baseline: Annotated[
        Path | None, typer.Option(help="An earlier report.json (or run, or directory of targets) to compare with.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Write a Markdown summary here.")] = None,
    force: Force = False,
    timeout: Patience = A_JOB_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """The gate for CI: judge a run again by its recipe; exit 0, 1 or 75."""
    from edgeattn import report
    from edgeattn.outcome import judged_again
    from edgeattn.publish import new_file

    if matrices.is_one(directory):
        matrices.check(directory, baseline, junit, summary, force, timeout, as_json, quiet)
    with Ui(as_json, quiet, [directory], timeout=timeout) as ui:
        if (directory / "manifest.json").exists() and not (directory / "report.json").exists():
            good = _selftest(ui, directory) and _runs_as_labelled(ui, directory)
            raise typer.Exit(EXIT_OK if good else EXIT_GATE_FAILED)
        earlier = report.Report.read(baseline / "report.json" if baseline.is_dir() else baseline) if baseline else None
        found = judged_again(directory, earlier)
        for path, text in ((junit, report.junit(found)), (summary, report.markdown(found))):
            if path is not None:
                with new_file(path, force) as file:
                    file.write_text(text, encoding="utf-8")
        ui.emit({"verdict": found.verdict, "gates": [g.model_dump(mode="json") for g in found.gates]})
        show_gates(ui, found)
    raise typer.Exit(VERDICT_CODES[found.verdict])


@app.command()
def report(
    directory: Annotated[
        Path, typer.Argument(help="A run directory, one of several targets, or a build kit that came back.")
    ],
    out: OptionalOut = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Build the HTML page of a run again, one self-contained file; of several targets the table's, and each one's."""
    from edgeattn import report as reports
    from edgeattn import returned
    from edgeattn.publish import new_file

    if matrices.is_one(directory):
        matrices.report(directory, out, force, as_json, quiet)
        return
    with Ui(as_json, quiet) as ui:
        if returned.is_kit(directory):
            returned.read(directory)
        found, raw, attention = reports.load(directory)
        target = out or directory / "report.html"
        page = reports.html(found, raw, attention)
        # The page inside a run is ours to renew; a file elsewhere needs --force.
        with new_file(target, force or out is None) as file:
            file.write_text(page, encoding="utf-8")
        ui.emit({"report": str(target), "bytes": len(page.encode())}, str(target))


@app.command()
def table(
    directories: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run directories, or folders of them.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write Markdown here instead.")] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Several runs in one table: parity, accuracy and size of model x target x precision."""
    from edgeattn import report as reports
    from edgeattn.publish import new_file

    with Ui(as_json, quiet) as ui:
        found = [reports.Report.read(place) for given in directories for place in _reports_in(given)]
        ui.emit(reports.table.facts(found))
        if out is not None:
            with new_file(out, force) as file:
                file.write_text(reports.table.markdown(found), encoding="utf-8")
            ui.log(f"{out}: {len(found)} runs")
        else:
            ui.table(reports.table.HEADS, [tuple(row.values()) for row in reports.table.rows(found)])


def _reports_in(given: Path) -> list[Path]:
    """The report of a run directory, or those of every run in a folder."""
    found = [given / "report.json"] if (given / "report.json").exists() else sorted(given.glob("*/report.json"))
    if not found:
        raise BadInput("holds no report.json", where=str(given), hint="give run directories, as `edgeattn run` leaves")
    return found


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle directory, or a build kit.")],
    blob: Annotated[
        bool, typer.Option("--blob", help="Run what was compiled for this machine, not the portable file.")
    ] = False,
    timeout: Patience = A_JOB_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check every hash of a bundle, then run the self-test inside; no PyTorch needed."""
    from edgeattn import returned

    with Ui(as_json, quiet, [directory], timeout=timeout) as ui:
        if returned.is_kit(directory):
            kit = returned.opened(directory)
            told = "a build kit, every file as it was packed; the board says the rest"
            ui.emit({"kit": kit.id, "model": kit["model"], "target": kit["target"]}, f"{directory}: {told}")
            raise typer.Exit(EXIT_OK)
        good = _selftest(ui, directory, blob)
    raise typer.Exit(EXIT_OK if good else EXIT_GATE_FAILED)


def _selftest(ui: Ui, directory: Path, blob: bool = False) -> bool:
    from edgeattn import runtime

    if not directory.is_dir():
        raise BadInput("is not a bundle directory", where=str(directory), hint="give the bundle/ of a run")
    with runtime.load(directory, blob=blob) as model:
        result = model.selftest()
        ui.emit(
            {"bundle": str(directory), "model": model.manifest.model, "target": model.manifest.target, **vars(result)},
            f"{directory}: every file as signed off; self-test {'passed' if result.passed else 'FAILED'}",
        )
    return bool(result.passed)


def _runs_as_labelled(ui: Ui, directory: Path) -> bool:
    """Whether a bundle runs in the precision it is called by; told where it does not."""
    from edgeattn.bundle.manifest import verify as verify_bundle
    from edgeattn.harness.precision import labelled
    from edgeattn.report import gates

    manifest = verify_bundle(directory)
    ran = labelled(str(manifest.precision.get("requested", "")), manifest.engine)
    gate = gates.precision(ran) if ran is not None else None
    if gate is None or gate.verdict == "pass":
        return True
    ui.warn(f"{directory}: {gate.why}")
    return False


def show(ui: Ui, result: Report) -> None:
    """The table a person reads after a run."""
    from edgeattn.report import wording

    precision, target, size = result.precision, result.target, result.size
    rows: list[tuple[object, ...]] = [
        ("target", target.requested, target.effective, ""),
        ("precision", precision.requested, precision.effective, ""),
    ]
    for name, out in result.parity.outputs.items():
        rows.append((f"parity of {name}", out.limit, out.observed or out.why, out.verdict))
    if (task := result.task) is not None:
        engine, reference = (wording.figure(f, task.unit) for f in (task.engine, task.reference))
        shown = f"{engine} (PyTorch {reference}, {task.samples} samples)"
        limit = "" if task.limit is None else f"drop <= {wording.lost(task.limit, task.unit)}"
        rows.append((f"{wording.metric(task.metric)} on {task.name}", limit, shown, task.verdict))
    if (timed := result.latency) is not None:
        low, high = timed.speedup.ci95
        shown = (
            f"{timed.engine.p50_ms:.3f} ms ({timed.baseline} {timed.reference.p50_ms:.3f} ms), {timed.threads} threads"
        )
        rows.append((f"latency per {timed.unit}", "", shown, ""))
        span = "too few rounds to tell" if low is None or high is None else f"95 % {low:.2f} to {high:.2f}"
        rows.append(("speedup", "", f"{timed.speedup.median:.2f}x ({span})", timed.verdict))
    if size is not None:
        rows.append(("size", "", f"{size.engine_bytes / 1e6:.2f} MB (FP32 {size.reference_bytes / 1e6:.2f} MB)", ""))
    ui.table(
        ("", "asked", "seen", "verdict"), rows, title=f"{result.model} -> {target.requested} {precision.requested}"
    )
    show_gates(ui, result)
    for note in result.notes:
        ui.warn(note)


def show_gates(ui: Ui, result: Report) -> None:
    """The gates, what was asked and what was seen, and the verdict over all."""
    from edgeattn.report import wording

    rows = [(g.name, wording.gate_limit(g), wording.gate_value(g, g.observed), g.verdict, g.why) for g in result.gates]
    ui.table(("gate", "limit", "observed", "verdict", "why"), rows)
    if not ui.as_json:
        open_ = "" if result.execution.ran else f": the engine was not run, {result.execution.why}"
        ui.emit(None, f"verdict: {result.verdict}{open_}")
