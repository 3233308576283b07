"""``doctor``: what this machine can build and run, and what in a model a target would refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeattn.cli.app import A_JOB_S, Debug, Force, Json, OptionalOut, Patience, Quiet, app
from edgeattn.cli.stages import Inputs, Shapes, fixed_sizes, save, specs
from edgeattn.cli.ui import Ui
from edgeattn.errors import EXIT_GATE_FAILED, Unsupported, UsageError
from edgeattn.target import require_precision

if TYPE_CHECKING:
    from edgeattn.capabilities import Finding, Target
    from edgeattn.drawing import Given
    from edgeattn.program import Program

EXIT_REFUSED = Unsupported.exit_code
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
        str,
        typer.Option(help="fp32, fp16, bf16 or int8: what the engine will be asked for; else what the graph shows."),
    ] = "",
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
    from edgeattn import capabilities, drawing, storage, twin

    with Ui(as_json, quiet, [source] if source else [], out, timeout) as ui:
        _consistent(source, target, precision, fix, out)
        if source is None:
            _machine(ui)
            return
        row = capabilities.resolve(target)
        program = storage.load(source, ui.warn)
        precision = precision or twin.shown(program.graphs.values())
        asked = _Asked(source, row, precision)
        if fix:
            given = drawing.Given(inputs, specs(shape or []))
            _fix(ui, asked, program, fixed_sizes(size or []), given, out, force)
            return
        found = capabilities.findings(program.graphs, target, precision)
        ui.emit({**asked.facts(), "passes": not found, "findings": _told(found)}, asked.summary(source, found))
        _table(ui, found)
        if found:
            raise typer.Exit(EXIT_REFUSED)


@dataclass(frozen=True)
class _Asked:
    """A file, and what it is looked at for."""

    source: Path
    target: Target
    precision: str

    def facts(self) -> dict[str, Any]:
        engine = self.target.engine
        return {
            "target": self.target.text,
            "engine": engine.title,
            "compute_capabilities": list(self.target.capabilities),
            "precision": self.precision,
            "opsets": list(engine.opsets.value),
            "typing": engine.typing.value,
            "unknown": list(engine.unknown),
        }

    def summary(self, file: Path, found: Sequence[Finding]) -> str:
        engine = " ".join((self.target.engine.title, *self.target.capabilities))
        open_ = "".join(f"\nnot known: {line}" for line in self.target.engine.unknown)
        if not found:
            return f"{file}: nothing that {engine} would refuse in {self.precision}{open_}"
        mends = [mend for mend in dict.fromkeys(f.mend for f in found) if mend]
        tail = f"; --fix applies {', '.join(mends)}" if mends else ""
        findings = f"{len(found)} findings" if len(found) > 1 else "1 finding"
        return f"{file}: {engine} would refuse it: {findings}{tail}{open_}"


def _consistent(source: Path | None, target: str, precision: str, fix: bool, out: Path | None) -> None:
    if precision:
        require_precision(precision)
    if source is not None and not target:
        hint = "like --target jetson:jp6.2, or leave the model out to see this machine"
        raise UsageError("for which target?", where="--target", hint=hint)
    if source is None and (target or fix or out):
        raise UsageError("no model to look into", where="doctor", hint="edgeattn doctor IN.onnx --target T")
    if out is not None and not fix:
        raise UsageError("nothing is written without --fix", where=f"-o {out}", hint="add --fix, or leave -o out")


def _told(found: Sequence[Finding]) -> list[dict[str, str]]:
    return [{**asdict(finding), "where": finding.where} for finding in found]


def _table(ui: Ui, found: Sequence[Finding]) -> None:
    """A row for each reason, with the first nodes that it holds for."""
    grouped: dict[tuple[str, str], list[Finding]] = {}
    for f in found:
        grouped.setdefault((f.reason, f.hint), []).append(f)
    rows = [(g[0].check, _places(g), g[0].reason, g[0].hint, g[0].source) for g in list(grouped.values())[:_MOST]]
    if rows:
        ui.table(("check", "where", "reason", "what mends it", "known from"), rows)
    if len(grouped) > _MOST:
        ui.log(f"{len(grouped) - _MOST} more kinds; --json lists all")


def _places(found: Sequence[Finding]) -> str:
    named = ", ".join(dict.fromkeys(f.where or f"graph {f.graph}" for f in found[:3]))
    return named + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _fix(
    ui: Ui, asked: _Asked, program: Program, sizes: dict[str, int], given: Given, out: Path | None, force: bool
) -> None:
    """Apply the mends, publish the result where it is the same function, and tell what is left."""
    from edgeattn import backends, storage
    from edgeattn.mend import mend
    from edgeattn.publish import guard

    if out is not None:
        guard(out, [asked.source])
    program = storage.with_reference(program, backends.oracle, given=given, warn=ui.warn)
    result = mend(program, asked.target.text, asked.precision, sizes, lambda line: ui.listen(line, 0, None))
    outputs = result.parity.outputs
    failed = [name for name, output in outputs.items() if output.verdict == "fail"]
    wrote = None if failed else out
    if wrote is not None:
        save(result.program, wrote, force)
    worst = max((output.max_abs or 0.0 for output in outputs.values()), default=0.0)
    judged = f"within {worst:.1e} of the original on {result.parity.case_count} cases"
    judged = f"differs from the original at {', '.join(failed)}; nothing was written" if failed else judged
    told = f"{', '.join(result.applied) or 'nothing to mend'}: {judged}{f'; wrote {wrote}' if wrote else ''}"
    facts = {
        "passes": not result.left and not failed,
        "applied": list(result.applied),
        "parity": result.parity.model_dump(mode="json"),
        "out": None if wrote is None else str(wrote),
        "findings": _told(result.left),
    }
    ui.emit({**asked.facts(), **facts}, f"{told}\n{asked.summary(wrote or asked.source, result.left)}")
    _table(ui, result.left)
    if failed or result.left:
        raise typer.Exit(EXIT_GATE_FAILED if failed else EXIT_REFUSED)


def _machine(ui: Ui) -> None:
    """What is installed here, what of it runs here, and the targets that the table knows."""
    from edgeattn import backends, capabilities, registry

    facts = []
    for name in registry.names("backends"):
        backend = registry.get("backends", name)
        here = backend.probe()
        runs = backend.executes(backends.Options(device=backend.devices[0])) if here.available else here
        facts.append(
            {
                "engine": name.replace("_", "-"),
                "builds": here.available,
                "version": here.version,
                "runs": runs.available,
                "why": runs.why,
                "hint": runs.hint,
            }
        )
    known = capabilities.targets()
    ui.emit({"engines": facts, "targets": {family: list(names) for family, names in known.items()}})
    rows = [
        (f["engine"], f["version"] if f["builds"] else "no", "yes" if f["runs"] else f"no: {f['why']}", f["hint"])
        for f in facts
    ]
    ui.table(("engine", "builds here", "runs here", "hint"), rows)
    ui.table(("target", "doctor knows"), [(family, ", ".join(names)) for family, names in known.items()])
