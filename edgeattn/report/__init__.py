"""The report: its schema, and the files it is written as.

A run directory holds ``report.json`` (the contract), ``report.md``, ``samples.npz`` (raw latencies and attention maps,
enough to draw the page again) and ``report.html`` where matplotlib and jinja2 are installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeattn.report.evidence import AttentionFigure, RawSamples
    from edgeattn.report.schema import Report

Loaded = tuple["Report", "RawSamples | None", "tuple[AttentionFigure, ...]"]


def write(
    report: Report, directory: str | Path, raw: RawSamples | None = None, attention: Sequence[AttentionFigure] = ()
) -> str:
    """Write every form of the report into an existing directory.

    Returns:
        Why the HTML page was left out, in one line; empty if it was written.
    """
    from edgeattn.errors import MissingPackage
    from edgeattn.report import evidence, html, markdown

    folder = Path(directory)
    (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    (folder / "report.md").write_text(markdown.render(report), encoding="utf-8")
    evidence.save(folder / "samples.npz", raw, attention)
    try:
        page = html.render(report, raw, attention)
    except MissingPackage as missing:
        return f"no report.html: {missing}"
    (folder / "report.html").write_text(page, encoding="utf-8")
    return ""


def load(directory: str | Path) -> Loaded:
    """The report of a run directory with its raw evidence; None and () where ``samples.npz`` is absent.

    Raises:
        BadInput: ``report.json`` or ``samples.npz`` cannot be read.
    """
    from edgeattn.report import evidence
    from edgeattn.report.schema import Report

    folder = Path(directory)
    report = Report.read(folder / "report.json")
    raw, attention = evidence.load(folder / "samples.npz")
    return report, raw, attention
