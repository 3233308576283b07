"""The report: its schema, how its gates are judged, and the forms it is written in.

A run directory holds ``report.json`` (the contract), ``report.md``, ``samples.npz`` (raw latencies and attention maps,
enough to draw the page again) and ``report.html`` where matplotlib and jinja2 are installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeattn.errors import MissingPackage
from edgeattn.report import evidence, table
from edgeattn.report.evidence import AttentionFigure, RawSamples
from edgeattn.report.gates import evaluate
from edgeattn.report.junit_xml import render as junit
from edgeattn.report.page import render as html
from edgeattn.report.schema import Report
from edgeattn.report.summary import render as markdown

__all__ = ["AttentionFigure", "RawSamples", "Report", "evaluate", "html", "junit", "load", "markdown", "table", "write"]


def write(
    report: Report, directory: str | Path, raw: RawSamples | None = None, attention: Sequence[AttentionFigure] = ()
) -> list[str]:
    """Write every form of the report into an existing directory.

    Returns:
        Notes, a line each: why the HTML page was left out. Empty when everything was written.
    """
    folder = Path(directory)
    (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    evidence.save(folder / "samples.npz", raw, attention)
    try:
        page = html(report, raw, attention)
    except MissingPackage as missing:
        return [f"no report.html: {missing}"]
    (folder / "report.html").write_text(page, encoding="utf-8")
    return []


def load(directory: str | Path) -> tuple[Report, RawSamples | None, tuple[AttentionFigure, ...]]:
    """The report of a run directory with its raw evidence; None and () where ``samples.npz`` is absent.

    Raises:
        BadInput: ``report.json`` or ``samples.npz`` cannot be read.
    """
    folder = Path(directory)
    report = Report.read(folder / "report.json")
    raw, attention = evidence.load(folder / "samples.npz")
    return report, raw, attention
