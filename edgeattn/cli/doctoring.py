"""``doctor``: what this machine can build and run, and what in a model a target would refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeattn.cli.app import A_JOB_S, Debug, Force, Json, OptionalOut, Patience, Quiet, app
from edgeattn.cli.stages import Inputs, Shapes, save, specs
from edgeattn.cli.ui import Ui
from edgeattn.errors import EXIT_GATE_FAILED, Unsupported, UsageError

if TYPE_CHECKING:
    from edgeattn.capabilities import Finding, Target
    from edgeattn.program import Program

EXIT_REFUSED = Unsupported.exit_code
_PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_MOST = 40  # rows of a table; JSON has all


@app.command()
def doctor(
    source: Annotated[
        Path | None, typer.Argument(metavar="[IN]", help="An .onnx file, or a program directory; none: this machine.")
    ] = None,
    target: Annotated[
        str, typer.Option("--target", "-t", help="tensorrt:10.3, tensorrt-rtx:sm89, jetson:jp6.2, openvino:npu …")
    ] = "",
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, bf16 or int8: what the engine will be asked for.")
    ] = "fp32",
    fix: Annotated[bool, typer.Option("--fix", help="Apply the mends, judge the result, and look again.")] = False,
    size: Annotated[
        list[str] | None, typer.Option("--size", help="With --fix: a dynamic dimension's size.", metavar="NAME=N")
    ] = None,
    out: OptionalOut = None,
    inputs: Inputs = None,
    shape: Shapes = None,
    force: Force = False,
    timeout: Patience = A_JOB_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """What a target would refuse of a model, and what mends it; exit 4 if it would. Without a model: this machine."""
    from edgeattn import capabilities, storage

    with Ui(as_json, quiet, [source] if source else [], out, timeout) as ui:
        _consistent(source, target, precision, fix, out)
        if source is None:
            _machine(ui)
            return
        row = capabilities.resolve(target)
        program = storage.load(source, ui.warn)
        found = capabilities.findings(program.graphs, target, precision)
        if fix:
            given = (inputs, shape or [], size or [])
            _fix(ui, program, (source, out, force), (target, precision), given)
            return
        facts = {**_facts(row, precision), "passes": not found, "findings": [_told(f) for f in found]}
        ui.emit(facts, _summary(source, row, precision, found))
        _table(ui, found)
        if found:
            raise typer.Exit(EXIT_REFUSED)


def _consistent(source: Path | None, target: str, precision: str, fix: bool, out: Path | None) -> None:
    if precision not in _PRECISIONS:
        raise UsageError(f"unknown precision '{precision}'", where="--precision", hint=", ".join(_PRECISIONS))
    if source is not None and not target:
        hint = "like --target jetson:jp6.2, or leave the model out to see this machine"
        raise UsageError("for which target?", where="--target", hint=hint)
    if source is None and (target or fix or out):
        raise UsageError("no model to look into", where="doctor", hint="edgeattn doctor IN.onnx --target T")
    if out is not None and not fix:
        raise UsageError("nothing is written without --fix", where=f"-o {out}", hint="add --fix, or leave -o out")


def _facts(row: Target, precision: str) -> dict[str, Any]:
    engine = row.engine
    return {
        "target": row.text,
        "engine": engine.title,
        "compute_capabilities": list(row.capabilities),
        "precision": precision,
        "opsets": list(engine.opsets.value),
        "typing": engine.typing.value,
    }


def _told(finding: Finding) -> dict[str, str]:
    return {**asdict(finding), "where": finding.where}


def _summary(source: Path, row: Target, precision: str, found: Sequence[Finding]) -> str:
    engine = row.engine.title + "".join(f" {c}" for c in row.capabilities)
    if not found:
        return f"{source}: nothing that {engine} would refuse in {precision}"
    mends = [m for m in dict.fromkeys(f.mend for f in found) if m]
    tail = f"; --fix applies {', '.join(mends)}" if mends else ""
    return f"{source}: {engine} would refuse it: {len(found)} findings{tail}"


def _table(ui: Ui, found: Sequence[Finding]) -> None:
    if not found:
        return
    grouped: dict[tuple[str, str], list[Finding]] = {}
    for f in found:
        grouped.setdefault((f.reason, f.hint), []).append(f)
    rows = []
    for (reason, hint), same in list(grouped.items())[:_MOST]:
        places = ", ".join(dict.fromkeys(f.where or f.graph for f in same[:3])) + (
            f" and {len(same) - 3} more" if len(same) > 3 else ""
        )
        rows.append((same[0].check, places, reason, hint, same[0].source))
    ui.table(("check", "where", "reason", "what mends it", "known from"), rows)
    if len(grouped) > _MOST:
        ui.log(f"{len(grouped) - _MOST} more kinds; --json lists all")


def _fix(
    ui: Ui,
    program: Program,
    files: tuple[Path, Path | None, bool],
    asked: tuple[str, str],
    given: tuple[Path | None, list[str], list[str]],
) -> None:
    """Apply the mends, publish the result where it is the same function, and tell what is left."""
    from edgeattn import backends, capabilities, drawing, storage
    from edgeattn.cli.stages import _sizes as sizes_of
    from edgeattn.mend import mend
    from edgeattn.publish import guard

    (source, out, force), (target, precision) = files, asked
    if out is not None:
        guard(out, [source])
    wanted = drawing.Given(given[0], specs(given[1]))
    program = storage.with_reference(program, backends.oracle, given=wanted, warn=ui.warn)
    result = mend(program, target, precision, sizes_of(given[2]), lambda line: ui.listen(line, 0, None))
    failed = [name for name, o in result.parity.outputs.items() if o.verdict == "fail"]
    wrote = out if out is not None and not failed else None
    if wrote is not None:
        save(result.program, wrote, force)
    row = capabilities.resolve(target)
    worst = max((o.max_abs or 0.0 for o in result.parity.outputs.values()), default=0.0)
    done = ", ".join(result.applied) or "nothing to mend"
    judged = f"within {worst:.1e} of the original on {result.parity.case_count} cases"
    judged = f"differs from the original at {', '.join(failed)}; nothing was written" if failed else judged
    ui.emit(
        {
            **_facts(row, precision),
            "passes": not result.left and not failed,
            "applied": list(result.applied),
            "parity": result.parity.model_dump(mode="json"),
            "out": None if wrote is None else str(wrote),
            "findings": [_told(f) for f in result.left],
        },
        f"{done}: {judged}"
        + (f"; wrote {wrote}" if wrote else "")
        + f"\n{_summary(source if wrote is None else wrote, row, precision, result.left)}",
    )
    _table(ui, result.left)
    if failed:
        raise typer.Exit(EXIT_GATE_FAILED)
    if result.left:
        raise typer.Exit(EXIT_REFUSED)


def _machine(ui: Ui) -> None:
    """What is installed here, and what the table knows beyond it."""
    from edgeattn import backends, capabilities, registry

    rows, facts = [], []
    for name in registry.names("backends"):
        backend = registry.get("backends", name)
        here = backend.probe()
        runs = backend.executes(backends.Options(device=backend.devices[0])) if here.available else here
        told = here.version if here.available else f"no: {here.why}"
        where = "yes" if runs.available else f"no: {runs.why}" if here.available else "no"
        rows.append((name.replace("_", "-"), told, where, here.hint if not here.available else runs.hint))
        facts.append(
            {
                "engine": name.replace("_", "-"),
                "builds": here.available,
                "version": here.version,
                "runs": runs.available,
                "why": runs.why,
                "hint": runs.hint or here.hint,
            }
        )
    known = capabilities.targets()
    ui.emit({"engines": facts, "targets": {family: list(names) for family, names in known.items()}})
    ui.table(("engine", "builds here", "runs here", "hint"), rows)
    ui.table(("target", "doctor knows"), [(family, ", ".join(names)) for family, names in known.items()])
