"""``parity`` and ``bench``: two things that should be equal, and how fast they are beside each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeattn.cli.app import A_JOB_S, FOREVER_S, Debug, Json, Patience, Quiet, Target, Threads, app
from edgeattn.cli.ui import Ui
from edgeattn.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from edgeattn.program import Case
    from edgeattn.report.schema import Contender
    from edgeattn.runnable import Runnable

_WHAT = "An .onnx, a program directory, a bundle, or pytorch:MODEL."
Inputs = Annotated[Path | None, typer.Option(help="Inputs from an .npz, samples on axis 0; else seeded ones.")]
Tolerance = Annotated[
    list[str] | None, typer.Option(metavar="[OUTPUT:]VALUE", help="For all outputs or one (repeatable).")
]


@app.command()
def parity(
    reference: Annotated[str, typer.Argument(help=_WHAT)],
    candidate: Annotated[str, typer.Argument(help=_WHAT)],
    inputs: Inputs = None,
    precision: Annotated[str, typer.Option(help="Limits of this precision: rewrite, fp32, fp16, bf16, int8.")] = "fp32",
    atol: Tolerance = None,
    rtol: Tolerance = None,
    sqnr: Tolerance = None,
    target: Target = "onnxruntime",
    seed: Annotated[int, typer.Option(help="Seed of the inputs.")] = 0,
    timeout: Patience = A_JOB_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Is CANDIDATE the same function as REFERENCE? Exit 1 if any output is past its limit."""
    from edgeattn.cases import answered
    from edgeattn.harness.parity import Limits, judge
    from edgeattn.runnable import open_any

    with Ui(as_json, quiet, [reference, candidate], timeout=timeout) as ui:
        limits = Limits.of(precision).override(atol=atol or (), rtol=rtol or (), sqnr=sqnr or ())
        first, second = open_any(reference, target, rounded=True), open_any(candidate, target, rounded=True)
        for opened in (first, second):
            if "rounded" in opened.engine:
                ui.warn(f"{opened.name}: {target} does not compute in the types it names; judged with {opened.engine}")
        cases = _cases(first, inputs, seed)
        oracle = answered(cases, reference, lambda c: first.run(c.feeds, c.tokens))
        result = judge("parity", lambda c: second.run(c.feeds, c.tokens), oracle.cases, limits)
        ui.emit({"reference": reference, "candidate": candidate, **result.model_dump(mode="json")})
        rows = [
            (name, o.limit, o.observed, f"{o.max_abs or 0:.2e}", o.worst_case, o.verdict, o.why)
            for name, o in result.outputs.items()
        ]
        ui.table(("output", "limit", "observed", "max error", "worst case", "verdict", "why"), rows)
    raise typer.Exit(EXIT_GATE_FAILED if result.verdict == "fail" else EXIT_OK)


@app.command()
def bench(
    models: Annotated[list[str], typer.Argument(metavar="A [B ...]", help=f"{_WHAT} The first is the baseline.")],
    pairs: Annotated[int, typer.Option(min=20, help="Interleaved rounds.")] = 300,
    inputs: Inputs = None,
    target: Target = "onnxruntime",
    threads: Threads = 0,
    seed: Annotated[int, typer.Option(help="Seed of order and inputs.")] = 0,
    timeout: Patience = FOREVER_S,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time models side by side in one process, interleaved, with an A/A control; exit 75 if it does not settle.

    Exit 1 if a bundle runs in another precision than it is called by: its figure would be read as that one's.
    """
    from edgeattn.backends._common import usable_cores
    from edgeattn.harness import latency
    from edgeattn.runnable import open_any

    with Ui(as_json, quiet, models, timeout=timeout) as ui:
        opened = [open_any(name, target, threads) for name in models]
        _refuse_mixed_hints(opened)
        case = _cases(opened[0], inputs, seed)[0]
        _refuse_other_inputs(opened)
        result = latency.compare_many(
            {r.name: _call(r, case) for r in opened},
            pairs=pairs,
            seed=seed,
            unit=latency.unit_of((s for r in opened for s in r.sessions.values()), opened[0].wiring is not None),
            threads=threads or usable_cores(),
            progress=lambda done, total: ui.listen("rounds", done, total),
        )
        ui.emit(result.model_dump(mode="json"))
        engines = {r.name: _engine(r) for r in reversed(opened)}  # of two with one name the first is told
        rows = [_timed(entry, engines[entry.name]) for entry in result.entries]
        ui.table(("model", "engine", "p50 ms", "p90 ms", "speed vs first", "95 %"), rows)
        control = _span(result.aa_control.ci95, 4)
        if " with " in result.unit and not as_json:
            ui.emit(None, f"one call is one {result.unit}")
        ui.emit(None, f"A/A control {control}: {result.verdict} {result.why}") if not as_json else None
        mislabelled = [line for r in opened if (line := _mislabelled(r))]
        for line in mislabelled:
            ui.warn(line)
    if mislabelled:
        raise typer.Exit(EXIT_GATE_FAILED)
    raise typer.Exit(EXIT_INCONCLUSIVE if result.verdict == "inconclusive" else EXIT_OK)


def _refuse_mixed_hints(opened: list[Runnable]) -> None:
    """Engines tuned for many requests at once answer one more slowly: beside others that figure would mislead."""
    for other in opened[1:]:
        if other.hint != opened[0].hint:
            raise UsageError(
                f"is built for {other.hint}, and {opened[0].name} for {opened[0].hint}: not for one table",
                where=other.name,
                hint=f"compile it with --engine hint={opened[0].hint}",
            )


def _refuse_other_inputs(opened: list[Runnable]) -> None:
    """All are timed on one case, so all take the inputs of the first."""
    first = ", ".join(s.name for s in opened[0].inputs)
    for other in opened[1:]:
        if {s.name for s in other.inputs} != {s.name for s in opened[0].inputs}:
            takes = ", ".join(s.name for s in other.inputs)
            raise UsageError(f"takes {takes}", where=other.name, hint=f"{opened[0].name} takes {first}")


def _timed(entry: Contender, engine: str) -> tuple[str, ...]:
    """A row of the table of times."""
    p90, ratio = entry.latency.p90_ms, entry.speedup
    return (
        entry.name,
        engine,
        f"{entry.latency.p50_ms:.3f}",
        "n/a" if p90 is None else f"{p90:.3f}",
        "" if ratio is None else f"{ratio.median:.3f}x",
        "" if ratio is None else _span(ratio.ci95, 3),
    )


def _engine(runnable: Runnable) -> str:
    """Where it runs, and of a bundle in what."""
    ran = runnable.precision
    return runnable.engine if ran is None else f"{runnable.engine} in {ran.effective}"


def _mislabelled(runnable: Runnable) -> str:
    """Why a bundle may not be called by the precision it was built for; empty if it may."""
    from edgeattn.report import gates

    gate = gates.precision(runnable.precision) if runnable.precision is not None else None
    return "" if gate is None or gate.verdict == "pass" else f"{runnable.name}: {gate.why}"


def _span(bounds: tuple[float | None, float | None], digits: int) -> str:
    """An interval in words; a starved machine may finish too few rounds for one."""
    low, high = bounds
    return "too few rounds to tell" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def _call(runnable: Runnable, case: Case) -> Callable[[], object]:
    return lambda: runnable.run(case.feeds, case.tokens)


def _cases(runnable: Runnable, inputs: Path | None, seed: int) -> list[Case]:
    """Cases from an .npz (all samples together), else drawn from the inputs; wired programs get forced tokens."""
    from dataclasses import replace

    import numpy as np

    from edgeattn import drawing
    from edgeattn.arrays import read_npz
    from edgeattn.program import Case

    tokens = np.random.default_rng(seed)

    def forced(case: Case) -> Case:
        rows = len(next(iter(case.feeds.values())))
        return case if runnable.wiring is None else replace(case, tokens=tokens.integers(0, 2, (rows, 4)))

    if inputs is not None:
        return [forced(Case(f"real-{inputs.name}", read_npz(inputs, runnable.inputs)))]
    drawn = drawing.draw(runnable.inputs, lambda c: runnable.run(c.feeds, forced(c).tokens), seed=seed)
    return [forced(c) for c in drawn]
