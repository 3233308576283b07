"""The regression table as text and as docs/regressions.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from edgeattn.harness import environment
from edgeattn.report.summary import escape, render_table
from tests.benchmarks import tools

if TYPE_CHECKING:
    from tests.benchmarks.regressions import Tally

HEAD = (
    *("tool", "suite", "engine", "cases", "passing before", "not taken", "passing after", "unsteady", "regressions"),
    *("graphs changed", "rules fired"),
)
TEXT = """# What rewriting breaks, counted

Written by `make regressions` on {day}. ONNX's own test cases ({cases}), each run before and after a
graph rewriter, on each engine, against the suite's own expected outputs with the suite's tolerances.

- **regression**: the engine passes the case as it is and does not pass it rewritten: other numbers, a refusal, a
  crash, three times of three.
- **not taken**: cases passing before for which the tool gave no graph, with an error that says why. edgeattn reads
  opsets 11 to 26 and standard operators in valid ONNX only, and refuses the rest; the source stays as it is.
- **unsteady**: the engine gave a wrong answer once, but not when both graphs were run twice more.
- **graphs changed**: cases in which the tool left other nodes than it found. **rules fired**: edgeattn's, all of them,
  also those that are applied only where a measurement says so; the other tools do not count theirs.

*node* holds one case an operator, *light* nine image networks, *stored* what older PyTorch and other converters wrote;
files older than opset 11 were brought to 18 by ONNX's version converter first, for every tool alike. Cases that no
engine passes before are counted under "cases" only. The engines run with their own optimisations on, one thread;
other tools run with their defaults. A graph input that a tool drops counts on ONNX Runtime, which refuses to be fed it;
OpenVINO is given what the graph still takes.

"""


def table(rows: Sequence[Tally]) -> str:
    """The rows as Markdown."""
    return render_table(HEAD, [_cells(row) for row in rows])


def markdown(rows: Sequence[Tally], rules: Counter[str], undone: Mapping[str, str], seconds: float) -> str:
    """The whole page."""
    per_suite = {row.suite: row.cases for row in rows}
    cases = ", ".join(f"{count:,} {suite}" for suite, count in per_suite.items())
    parts = [TEXT.format(day=date.today().isoformat(), cases=cases) + table(rows)]
    parts.append(f"{_machine()} {seconds / 60:.0f} minutes for all.")
    fired = ", ".join(f"{rule} {count}" for rule, count in rules.most_common()) or "none"
    parts.append(f"## edgeattn's rules on these cases\n\nFired (fold_constants counts the nodes that went): {fired}.")
    if undone:
        parts.append(
            "Undone by the check on the case's own inputs, so that the graph stayed as it was:\n\n"
            + "\n".join(f"- {escape(name)}: {escape(why)}" for name, why in undone.items())
        )
    parts += _regressions(rows)
    return "\n\n".join(parts) + "\n"


def _cells(row: Tally) -> tuple[str, ...]:
    fired = str(row.fired) if row.tool == "edgeattn" else ""
    broken = f"**{len(row.regressions)}**"
    counts = (row.cases, row.before, row.refused, row.after, row.unsteady)
    return (row.tool, row.suite, row.engine, *map(str, counts), broken, str(row.changed), fired)


def _regressions(rows: Sequence[Tally]) -> list[str]:
    """The names of what broke, by tool."""
    parts = []
    for tool in dict.fromkeys(row.tool for row in rows):
        broken = [(row, name, why) for row in rows if row.tool == tool for name, why in row.regressions.items()]
        if broken:
            lines = [f"- {row.engine}, `{name}`: {escape(why)}" for row, name, why in broken]
            parts.append(f"## Regressions of {tool}\n\n" + "\n".join(lines))
    return parts


def _machine() -> str:
    here = environment.describe()
    packages = [*tools.TOOLS, *tools.ENGINES, "onnx"]
    versions = ", ".join(f"{p} {tools.version(p)}" for p in packages if tools.version(p))
    return f"{here.cpu}. {versions}."
