"""One recipe built for several targets: a line for each, as JSON, Markdown, JUnit and a page.

``matrix.json`` is a contract as ``report.json`` is: keys may be added, never renamed, and ``schema_version`` counts
breaking changes. Each part keeps its own full ``report.json``; the sections here are copies of that one's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from edgeattn.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK, BadInput
from edgeattn.files import read_regular
from edgeattn.report import wording as w
from edgeattn.report.junit_xml import Case, document
from edgeattn.report.page import environment
from edgeattn.report.schema import LatencyReport, Report, SizeReport, StageParity, TaskReport
from edgeattn.report.strictjson import loads
from edgeattn.report.summary import escape, render_table
from edgeattn.report.values import SectionVerdict, Value, Verdict

SCHEMA_VERSION = 1
NAME = "matrix.json"
MAX_BYTES = 64 << 20
Status = Literal["judged", "built", "refused", "failed"]
HEADS = ("target", "precision", "status", "parity", "task", "size", "build", "build memory", "latency")
MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "built": "🔨", "refused": "⛔", "failed": "💥"}
ORDER = (70, 6, 5, 3, 2, 4, EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK)
"""Exit codes from the worst to the best: what says most about the whole is told."""


class Named(Value):
    """What was asked for, and what really ran; None where nothing was built."""

    requested: str
    effective: str | None = None


class Part(Value):
    """What became of one target in one precision.

    Attributes:
        name: the part's directory inside the matrix, for those that were built.
        status: ``judged`` (built, run here and judged by the recipe's gates), ``built`` (it cannot run here; what can
            be judged without running it was), ``refused`` (the engine, or this machine, does not take it: found before
            or by its builder), ``failed`` (it should have worked).
        verdict: of the part's report; None where there is none.
        reason, hint: why it was refused, failed or not run, and what mends that. exit_code: its own.
        parity: the last stage that could be judged; ``engine`` where it ran. task, latency, size: as in report.json.
        build_seconds, build_peak_bytes: of the engine's builder; by how much memory grew at most meanwhile.
            seconds: of the whole part. shared: stages that an earlier part had done for it.
    """

    name: str
    target: Named
    precision: Named
    status: Status
    verdict: Verdict | None = None
    reason: str = ""
    hint: str = ""
    exit_code: int = EXIT_OK
    parity: StageParity | None = None
    task: TaskReport | None = None
    size: SizeReport | None = None
    build_seconds: float | None = None
    seconds: float = 0.0
    build_peak_bytes: int | None = None
    latency: LatencyReport | None = None
    shared: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """The verdict where the part was judged, else its status."""
        return self.verdict or self.status


class Matrix(Value):
    """All parts; ``exit_code`` is what the command ended with, ``allow_refused`` whether a refusal was allowed."""

    kind: Literal["edgeattn.matrix"] = "edgeattn.matrix"
    schema_version: int = SCHEMA_VERSION
    recipe: str = ""
    model: str = ""
    allow_refused: bool = False
    exit_code: int = EXIT_OK
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The matrix as JSON text: schema order, two spaces, a final newline, no NaN."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Matrix:
        """The matrix in a file.

        Raises:
            BadInput: missing, not JSON, of another schema, or with a wrong value.
        """
        hint = f"name a directory that `edgeattn run RECIPE --targets …` left, with its {NAME}"
        data = loads(read_regular(path, MAX_BYTES, BadInput), str(path))
        if data.get("schema_version") != SCHEMA_VERSION or data.get("kind") != "edgeattn.matrix":
            raise BadInput(f"is no matrix of schema_version {SCHEMA_VERSION}", where=str(path), hint=hint)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the matrix"
            raise BadInput(f"'{key}': {first['msg']}", where=str(path), hint=hint) from error


def exit_code(parts: Sequence[Part], allow_refused: bool) -> int:
    """The worst of the parts' codes in ``ORDER``; refusals that are allowed count as done, if others were built."""
    forgiven = _forgiven(parts, allow_refused)
    codes = {EXIT_OK if forgiven and part.status == "refused" else part.exit_code for part in parts}
    strange = codes - set(ORDER)  # a signal's, say
    return max(strange) if strange else next((code for code in ORDER if code in codes), EXIT_OK)


def _forgiven(parts: Sequence[Part], allow_refused: bool) -> bool:
    return allow_refused and any(part.status in ("judged", "built") for part in parts)


def part_of(name: str, target: str, precision: str, report: Report, code: int, seconds: float) -> Part:
    """The line of a part that has a report.

    Args:
        name, target, precision: as asked. report: what its run found out. code: its exit code.
        seconds: of the whole part.
    """
    judged = [stage for stage in report.parity.stages if stage.case_count]
    return Part(
        name=name,
        target=Named(requested=target, effective=report.target.effective),
        precision=Named(requested=precision, effective=report.precision.effective),
        status="judged" if report.execution.ran else "built",
        verdict=report.verdict,
        reason=_why(report),
        exit_code=code,
        parity=judged[-1] if judged else None,
        task=report.task,
        size=report.size,
        build_seconds=report.build.seconds if report.build else None,
        seconds=seconds,
        build_peak_bytes=report.build.peak_bytes if report.build else None,
        latency=report.latency,
        shared=tuple(stage.name for stage in report.stages if stage.cached),
    )


def _why(report: Report) -> str:
    """The first gate that does not hold, or why the engine was not run."""
    broken = [g for verdict in ("fail", "inconclusive") for g in report.gates if g.verdict == verdict]
    if broken:
        g = broken[0]
        seen = f"{g.name}: {w.gate_value(g, g.observed)}, limit {w.gate_limit(g)}"
        return f"{seen} ({g.why})" if g.why else seen
    return report.execution.why


def rows(parts: Iterable[Part]) -> list[tuple[str, ...]]:
    """A line a part, as text, in the order that they were asked for."""
    return [
        (
            part.target.requested,
            _precision(part.precision),
            _status(part),
            _parity(part),
            _task(part.task),
            "" if part.size is None else w.size(part.size.engine_bytes),
            "" if part.build_seconds is None else f"{part.build_seconds:.1f} s",
            "" if part.build_peak_bytes is None else w.size(part.build_peak_bytes),
            _latency(part),
        )
        for part in parts
    ]


def _precision(asked: Named) -> str:
    told = asked.effective in (None, asked.requested)
    return asked.requested if told else f"{asked.requested} (runs {asked.effective})"


def _status(part: Part) -> str:
    head = "built, not run here" if part.word == "built" else part.word
    return ": ".join(filter(None, [head, "; ".join(filter(None, [part.reason, part.hint]))]))


def _parity(part: Part) -> str:
    """The worst output: by its signal where that is what it was judged by, else by its largest error."""
    if part.parity is None:
        return ""
    outputs = part.parity.outputs.values()
    signals = [200.0 if o.sqnr_db is None else o.sqnr_db for o in outputs if "SQNR" in o.limit]
    worst = w.decibels(min(signals)) if signals else w.error(max((o.max_abs or 0.0 for o in outputs), default=None))
    where = {"engine": "", "stand-in": " (stand-in)"}.get(part.parity.stage, " (graph)")
    return f"{worst}{where}"


def _task(task: TaskReport | None) -> str:
    return "" if task is None else f"{w.figure(task.engine, task.unit)} (lost {w.lost(task.drop, task.unit)})"


def _latency(part: Part) -> str:
    timed = part.latency
    if timed is None:
        return ""
    settled = "" if timed.verdict == "pass" else ", not settled"
    return f"{w.milliseconds(timed.engine.p50_ms)} ({w.times(timed.speedup.median)} PyTorch{settled})"


def markdown(matrix: Matrix) -> str:
    """The table for a CI summary or a pull request."""
    lines = [[escape(cell) for cell in row] for row in rows(matrix.parts)]
    for line, part in zip(lines, matrix.parts, strict=True):
        line[2] = f"{MARKS[part.word]} {line[2]}"
    title = escape(matrix.model or matrix.recipe or "edgeattn matrix")
    notes = "".join(f"\n- {escape(note)}" for note in matrix.notes)
    return "\n\n".join(filter(None, [f"# {title}: {sentence(matrix)}", render_table(HEADS, lines), notes])) + "\n"


def sentence(matrix: Matrix) -> str:
    """``3 parts: 1 pass, 1 built, 1 refused``."""
    words = [part.word for part in matrix.parts]
    told = ", ".join(f"{words.count(word)} {word}" for word in MARKS if word in words)
    return f"{len(words)} part{'s' if len(words) != 1 else ''}: {told}"


def junit(matrix: Matrix) -> str:
    """A test case a part; its gates are in its own report. A refusal is skipped where it was allowed, else it fails."""
    return document(matrix.model, [_case(part, matrix) for part in matrix.parts])


def _case(part: Part, matrix: Matrix) -> Case:
    allowed = _forgiven(matrix.parts, matrix.allow_refused)
    verdicts: dict[str, SectionVerdict] = {
        **{"pass": "pass", "fail": "fail", "inconclusive": "inconclusive", "built": "n/a", "failed": "fail"},
        "refused": "n/a" if allowed else "fail",
    }
    return Case("targets", part.name, verdicts[part.word], _status(part), part.seconds)


def html(matrix: Matrix, base: str = "") -> str:
    """The table as a page whose lines lead to the parts' own pages.

    Args:
        base: the directory of the parts as seen from the page; empty where they lie beside it.

    Raises:
        MissingPackage: jinja2 is not installed.
    """
    template = environment().get_template("matrix.html.j2")
    lines = list(zip(matrix.parts, rows(matrix.parts), strict=True))
    shown = {"matrix": matrix, "lines": lines, "heads": HEADS, "marks": MARKS, "sentence": sentence(matrix)}
    return str(template.render(**shown, base=f"{base}/" if base else ""))
