"""What graph rewriters break: ONNX's own test cases before and after each of them, on every engine here.

    make regressions                                     everything, written to docs/regressions.md
    python -m tests.benchmarks.regressions               our rules only
    python -m tests.benchmarks.regressions --peers       onnxsim, onnxslim and onnxscript too
    python -m tests.benchmarks.regressions --every 10    a tenth of the cases
    python -m tests.benchmarks.regressions --quick       all cases, but only those that a rule changes are run

A *regression* is a case that the engine passes with the graph as it is, and does not pass with the rewritten graph:
other numbers than the suite's, a refusal, or a crash, three times out of three. Everything native runs in child
processes, so a crash is counted and the run goes on. Exit code 1 if edgeattn has a regression.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks import suites, survivors, tools
from tests.benchmarks.suites import SuiteCase
from tests.benchmarks.tools import ENGINES, TOOLS

PASS = "pass"
UNSTEADY = "unsteady: "  # the engine itself gives this answer now and that one then


@dataclass
class Tally:
    """One row of the table: a suite through a tool, on an engine."""

    suite: str
    tool: str
    engine: str
    cases: int = 0
    before: int = 0
    refused: int = 0
    after: int = 0
    changed: int = 0
    fired: int = 0
    undone: int = 0
    unsteady: int = 0
    regressions: dict[str, str] = field(default_factory=dict)


def run_case(
    case: SuiteCase, names: Iterable[str], quick: bool, known: survivors.Steps, report: survivors.Report
) -> None:
    """All steps of one case: the engines before, each tool, the engines after."""

    def step(name: str, do: Any) -> Any:
        if name not in known:
            report(name, None)
            known[name] = do()
            report(name, known[name])
        return known[name]

    made: dict[str, Any] = {}
    if quick:
        outcome = step("edgeattn", lambda: _rewritten(case, "edgeattn", "", made))
        if not outcome["failed"] and not outcome["changed"]:
            return
    before = {engine: step(f"before {engine}", lambda e=engine: _passes(case, e, case.model)) for engine in ENGINES}
    judge = next((engine for engine in ENGINES if before[engine] == PASS), None)
    if judge is None:
        return
    for name in names:
        outcome = step(name, lambda n=name: _rewritten(case, n, judge, made))
        if outcome["failed"] or all(f"{name} {engine}" in known for engine in ENGINES):
            continue
        if name not in made:  # the child that made it is gone
            _rewritten(case, name, judge, made)
        for engine in ENGINES:
            step(f"{name} {engine}", lambda e=engine, n=name: _after(case, e, made[n], before[e]))


def _after(case: SuiteCase, engine: str, model: Any, before: str) -> str:
    """How a rewritten case does. What looks broken is run twice more, as is the original: engines have moods."""
    if before == PASS and model.SerializeToString(deterministic=True) == case.model.SerializeToString(
        deterministic=True
    ):
        return PASS
    after = _passes(case, engine, model)
    if before == PASS and after != PASS:
        again = [(_passes(case, engine, case.model), _passes(case, engine, model)) for _ in range(2)]
        if any(source != PASS or rewritten == PASS for source, rewritten in again):
            return UNSTEADY + after
    return after


def _passes(case: SuiteCase, engine: str, model: Any) -> str:
    """``pass``, or why not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = tools.Opened(engine, model)
            for feeds, wanted in case.data_sets:
                suites.check(case, wanted, opened.run(feeds))
    except AssertionError as error:
        return "wrong: " + " ".join(str(error).split())[:160]
    except Exception as error:
        return "refused: " + " ".join(str(error).split())[:160]
    return PASS


def _rewritten(case: SuiteCase, tool: str, judge: str, made: dict[str, Any]) -> dict[str, Any]:
    """What a tool did, JSON-able; its model is put into ``made``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            done = TOOLS[tool](case.model, case.data_sets[0][0], judge)
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
    made[tool] = done.model
    changed = _nodes(done.model) != _nodes(case.model)
    return {"failed": "", "changed": changed, "fired": dict(done.fired), "undone": dict(done.undone)}


def _nodes(model: Any) -> list[tuple[str, tuple[str, ...]]]:
    return [(n.op_type, tuple(n.input)) for n in model.graph.node]


def run(
    cases: list[SuiteCase], names: list[str], jobs: int, quick: bool, earlier: Mapping[str, survivors.Steps]
) -> dict[int, survivors.Steps]:
    """Case number -> what became of every step; of ``earlier`` results all count but our own."""
    found: dict[int, survivors.Steps] = {}

    def job(number: int, known: survivors.Steps, report: survivors.Report) -> None:
        run_case(cases[number], names, quick, known, report)

    kept = [earlier.get(f"{case.suite}/{case.name}", {}) for case in cases]
    known = [{step: result for step, result in steps.items() if not step.startswith("edgeattn")} for steps in kept]
    for number, steps in survivors.each(job, known, jobs, lambda how: how):
        found[number] = {k: {"failed": v} if k in TOOLS and isinstance(v, str) else v for k, v in steps.items()}
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{len(found)} of {len(cases)} cases")
    return found


def tallies(cases: list[SuiteCase], found: dict[int, survivors.Steps], names: list[str]) -> list[Tally]:
    """The table's rows: suites within engines within tools."""
    rows = {
        (case.suite, tool, engine): Tally(case.suite, tool, engine)
        for tool in names
        for engine in ENGINES
        for case in cases
    }
    for number, steps in found.items():
        case = cases[number]
        for (suite, tool, engine), row in rows.items():
            if suite == case.suite:
                _count(row, case, steps, steps.get(tool), steps.get(f"before {engine}") == PASS)
    return list(rows.values())


def _count(row: Tally, case: SuiteCase, steps: survivors.Steps, outcome: Any, passed: bool) -> None:
    row.cases += 1
    row.before += passed
    if outcome is None:
        return
    if outcome["failed"]:
        row.refused += passed
        if passed and outcome["failed"].startswith(("crashed", "hung")):
            row.regressions[case.name] = f"{row.tool} {outcome['failed']}"
        return
    after = steps.get(f"{row.tool} {row.engine}")
    if after is None:  # no engine passes the case, or nothing changed and it was not run again
        return
    row.after += after == PASS
    row.unsteady += after.startswith(UNSTEADY)
    row.changed += outcome["changed"]
    row.fired += sum(outcome["fired"].values())
    row.undone += len(outcome["undone"])
    if passed and after != PASS and not after.startswith(UNSTEADY):
        row.regressions[case.name] = after


def rules_of(found: dict[int, survivors.Steps]) -> Counter[str]:
    """How often each of our rules fired, over all cases."""
    counts: Counter[str] = Counter()
    for steps in found.values():
        counts.update(steps.get("edgeattn", {}).get("fired", {}))
    return counts


def main() -> int:
    """Run, print the table, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", action="store_true", help="measure onnxsim, onnxslim and onnxscript too")
    parser.add_argument("--suite", choices=suites.SUITES, action="append", help="this suite only (repeatable)")
    parser.add_argument("--every", type=int, default=1, help="take each n-th case")
    parser.add_argument("--quick", action="store_true", help="run only what our rules change; for the tests")
    parser.add_argument("--jobs", type=int, default=2, help="child processes at a time, a thread each")
    parser.add_argument("--earlier", type=Path, help="take from a --json file all that does not depend on our rules")
    parser.add_argument("--out", type=Path, help="write the table as Markdown")
    parser.add_argument("--json", type=Path, help="write every step of every case")
    asked = parser.parse_args()
    from tests.benchmarks import regressions_page as page

    started = time.perf_counter()
    names = [t for t in TOOLS if t == "edgeattn" or (asked.peers and tools.version(t))]
    cases = suites.load(tuple(asked.suite or suites.SUITES))[:: asked.every]
    earlier = json.loads(asked.earlier.read_text()) if asked.earlier else {}
    found = run(cases, names, asked.jobs, asked.quick, earlier)
    rows = tallies(cases, found, names)
    seconds = time.perf_counter() - started
    if asked.json:
        asked.json.write_text(
            json.dumps({f"{cases[i].suite}/{cases[i].name}": s for i, s in sorted(found.items())}, indent=1)
        )
    if asked.out:
        asked.out.write_text(page.markdown(rows, rules_of(found), _undone(cases, found)), encoding="utf-8")
    sys.stdout.write(page.table(rows) + f"\n{len(cases)} cases in {seconds:.0f} s\n")
    ours = [r for r in rows if r.tool == "edgeattn"]
    for row in ours:
        for name, why in row.regressions.items():
            sys.stdout.write(f"regression on {row.engine}: {row.suite}/{name}: {why}\n")
    return 1 if any(row.regressions for row in ours) else 0


def _undone(cases: list[SuiteCase], found: dict[int, survivors.Steps]) -> dict[str, str]:
    return {
        f"{cases[number].name}: {rule}": why
        for number, steps in sorted(found.items())
        for rule, why in steps.get("edgeattn", {}).get("undone", {}).items()
    }


if __name__ == "__main__":
    sys.exit(main())
