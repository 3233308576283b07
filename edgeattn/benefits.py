"""Measuring what each rewrite rule is worth: ``make benefits``, or ``python -m edgeattn.benefits [RULE ...]``.

A rule's ``workload()`` before and after it, in the same rounds, on every engine that is here, in FP32. The figures go
to ``rewrite/benefits.json``, from which ``edgeattn explain RULE`` and ``edgeattn list rules`` read them, after every
measurement: an interrupted run goes on where it stopped. What was measured already for the same graphs and version of
the engine is kept, unless it did not settle or ``--fresh`` asks for everything.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from edgeattn import cases, decode, graphs, registry
from edgeattn.backends import Options
from edgeattn.errors import EdgeattnError
from edgeattn.harness import environment, latency
from edgeattn.program import Reference
from edgeattn.rewrite import ORDER, _apply, _benefits, _check
from edgeattn.rewrite._benefits import Benefit, Entry
from edgeattn.rewrite._rule import Rule

if TYPE_CHECKING:
    from edgeattn.backends import Backend
    from edgeattn.program import Case, Program

PAIRS = 60
SECONDS = 6.0
STEPS = 8
"""Steps of a decoder's sequence."""


def measure(
    rule: Rule,
    engines: dict[str, Backend],
    stored: Entry | None = None,
    *,
    threads: int = 1,
    seconds: float = SECONDS,
    fresh: bool = False,
) -> Entry:
    """What is known of a rule after measuring what is missing.

    Args:
        rule: any. engines: those to measure on. stored: the entry so far.
        threads: for each engine. seconds: for each measurement. fresh: measure also what is there.
    """
    workload = rule.workload()
    asked = replace(workload, reference=Reference("workload", (sample(workload),)))
    outcome = _apply.apply(rule, asked)
    before, after = outcome.before or asked, outcome.program
    graphs_digest = _benefits.digest(before, after)
    kept = dict(stored.engines) if stored is not None and stored.graphs == graphs_digest else {}
    for name, backend in engines.items():
        old = kept.get(name)
        if fresh or old is None or old.verdict != "pass" or old.version != backend.probe().version:
            kept[name] = _timed(name, backend, before, after, threads, seconds)
    nodes = (_check.node_count(before), _check.node_count(after))
    realistic = type(rule).workload is not Rule.workload
    return Entry(graphs_digest, outcome.count, nodes, realistic, dict(sorted(kept.items())))


def _timed(name: str, backend: Backend, before: Program, after: Program, threads: int, seconds: float) -> Benefit:
    options = Options("cpu", "fp32", threads)
    here = environment.describe(threads)
    unknown = Benefit(
        name, backend.probe().version, None, (None, None), None, None, "refused", "", 0, threads, here.cpu,
        date.today().isoformat(),
    )  # fmt: skip
    try:
        old, new = (_call(backend, options, program) for program in (before, after))
        old(), new()
    except EdgeattnError as error:
        return replace(unknown, why=str(error))
    report, _ = latency.measure(old, new, pairs=PAIRS, threads=threads, max_seconds=seconds)
    return replace(
        unknown,
        speedup=_rounded(report.speedup.median),
        ci95=(_rounded(report.speedup.ci95[0]), _rounded(report.speedup.ci95[1])),
        before_ms=_rounded(report.reference.p50_ms),
        after_ms=_rounded(report.engine.p50_ms),
        verdict=report.verdict,
        why=report.why,
        rounds=report.rounds,
    )


def sample(program: Program) -> Case:
    """Seeded inputs of a workload at its own size; a program of several graphs takes forced tokens."""
    import numpy as np

    case = cases.draw(graphs.program_inputs(program), 0)[0]
    if program.wiring is None:
        return case
    batch = len(next(iter(case.feeds.values())))
    return replace(case, tokens=np.random.default_rng(0).integers(0, 2, (batch, STEPS)))


def _call(backend: Backend, options: Options, program: Program) -> Callable[[], object]:
    assert program.reference is not None
    case = program.reference.typical
    sessions = {graph: backend.load(model, options) for graph, model in program.graphs.items()}
    return lambda: decode.run(sessions, program.wiring, case.feeds, case.tokens)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def save(entries: dict[str, Entry]) -> None:
    """Write the file, rules in the order in which they are applied."""
    ordered = {name: _plain(entries[name]) for name in ORDER if name in entries}
    _benefits.FILE.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


def _plain(entry: Entry) -> dict[str, Any]:
    plain = asdict(entry)
    for found in plain["engines"].values():
        del found["engine"]  # it is the key
    return plain


def main() -> None:
    """Measure the rules named, or all, and write the file after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rules", nargs="*", metavar="RULE", help="these only; by default all")
    parser.add_argument("--threads", type=int, default=1, help="of each engine (default 1)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for each of them (default {SECONDS:g})")
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured before")
    asked = parser.parse_args()
    engines = {name: registry.get("backends", name) for name in registry.names("backends")}
    engines = {name: backend for name, backend in engines.items() if backend.executes(Options()).available}
    entries = {name: entry for name, entry in _benefits.known().items() if name in ORDER}
    for name in ORDER:
        if asked.rules and name not in asked.rules:
            continue
        entries[name] = measure(
            registry.get("rewrite", name),
            engines,
            entries.get(name),
            threads=asked.threads,
            seconds=asked.seconds,
            fresh=asked.fresh,
        )
        save(entries)
        told = ", ".join(f"{engine} {benefit}" for engine, benefit in entries[name].engines.items())
        sys.stderr.write(f"{name}: {told}\n")


if __name__ == "__main__":
    main()
