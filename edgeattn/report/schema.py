"""The report: one value that says what was asked, what really ran, and how it was judged.

Keys are a contract with users' scripts: they may be added, never renamed; ``schema_version`` counts breaking changes.
The JSON holds no NaN or Infinity: a figure that is undefined or not finite is ``null``, and the verdict and ``why``
beside it say what that means.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from edgeattn.errors import BadInput, printable
from edgeattn.report.boards import BoardReport
from edgeattn.report.latency import Attempt, Comparison, Contender, Latencies, LatencyReport, Ratio
from edgeattn.report.sections import (
    AttentionReport,
    BuildReport,
    Environment,
    Execution,
    GateReport,
    LayerPrecision,
    MeasuredChoice,
    Operators,
    OutputParity,
    Pair,
    ParityReport,
    Precision,
    RewriteCount,
    SizeReport,
    StageParity,
    StageReport,
    Target,
    TaskReport,
)
from edgeattn.report.strictjson import loads
from edgeattn.report.timing import TimeReport
from edgeattn.report.values import Figure, GateVerdict, Interval, SectionVerdict, Value, Verdict, worst

__all__ = [
    "SCHEMA_VERSION",
    "Attempt",
    "AttentionReport",
    "BoardReport",
    "BuildReport",
    "Comparison",
    "Contender",
    "Environment",
    "Execution",
    "Figure",
    "GateReport",
    "GateVerdict",
    "Interval",
    "Latencies",
    "LatencyReport",
    "LayerPrecision",
    "MeasuredChoice",
    "Operators",
    "OutputParity",
    "Pair",
    "ParityReport",
    "Precision",
    "Ratio",
    "Report",
    "RewriteCount",
    "SectionVerdict",
    "SizeReport",
    "StageParity",
    "StageReport",
    "Target",
    "TaskReport",
    "TimeReport",
    "Verdict",
    "worst",
]

SCHEMA_VERSION = 1
MAX_REPORT_BYTES = 64 << 20
"""A report is some kilobytes; a file past this is not one, and is not read into memory."""


class Report(Value):
    """Everything one run found out.

    Sections that were not asked for are None or empty; ``notes`` are lines a reader should not miss.
    """

    schema_version: int = SCHEMA_VERSION
    verdict: Verdict
    recipe: str = ""
    model: str = ""
    target: Target
    precision: Precision
    execution: Execution = Execution()
    stages: tuple[StageReport, ...] = ()
    rewrites: tuple[RewriteCount, ...] = ()
    operators: Operators = Operators()
    parity: ParityReport = ParityReport()
    task: TaskReport | None = None
    attention: AttentionReport | None = None
    latency: LatencyReport | None = None
    profile: TimeReport | None = None
    size: SizeReport | None = None
    build: BuildReport | None = None
    environment: Environment | None = None
    board: BoardReport | None = None
    gates: tuple[GateReport, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The report as JSON text: schema order, two spaces, a final newline, no NaN."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def parse(cls, text: str | bytes, where: str = "report.json") -> Report:
        """The report in ``text``; raises BadInput that names the key at fault."""
        data = loads(text, where)
        version = data.get("schema_version")
        if version != SCHEMA_VERSION or isinstance(version, bool):
            shown = "no schema_version" if version is None else f"schema_version {printable(repr(version), 40)}"
            raise BadInput(
                f"{shown}, this edgeattn reads {SCHEMA_VERSION}",
                where=where,
                hint="read it with the edgeattn that wrote it",
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the report"
            raise BadInput(f"'{key}': {first['msg']}", where=where, hint="run edgeattn again to rewrite it") from error

    @classmethod
    def read(cls, path: str | Path) -> Report:
        """The report in a file.

        Raises:
            BadInput: missing, not a regular file, too large, not JSON, of another schema, or with a wrong value.
        """
        where = str(path)
        try:
            if not Path(path).is_file():
                raise BadInput(
                    "is not a regular file" if Path(path).exists() else "does not exist",
                    where=where,
                    hint="name the report.json of a run",
                )
            if Path(path).stat().st_size > MAX_REPORT_BYTES:
                raise BadInput(f"is larger than {MAX_REPORT_BYTES >> 20} MiB", where=where, hint="this is no report")
            return cls.parse(Path(path).read_bytes(), where)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise BadInput(f"cannot be read: {error}", where=where, hint="check the path and its permissions") from None
