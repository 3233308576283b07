"""Several runs beside each other: model × target × precision with parity, accuracy and size, a line a run.

Latency is left out on purpose: runs measured at different moments are no fair race; ``edgeattn bench`` is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeattn.report import wording as w
from edgeattn.report.schema import OutputParity, Report, TaskReport
from edgeattn.report.summary import MARKS, escape, render_table

HEADS = (
    "model",
    "target",
    "precision",
    "in INT8",
    "parity with PyTorch",
    "attention",
    "task",
    "PyTorch",
    "engine",
    "size",
    "verdict",
)


def rows(reports: Sequence[Report]) -> list[dict[str, str]]:
    """One row a run, as text, sorted by model, target and precision."""
    ordered = sorted(reports, key=lambda r: (r.model, r.target.requested, r.precision.requested))
    return [dict(zip(HEADS, _row(report), strict=True)) for report in ordered]


def facts(reports: Sequence[Report]) -> list[Mapping[str, object]]:
    """The same rows as data, with the figures unrounded."""
    ordered = sorted(reports, key=lambda r: (r.model, r.target.requested, r.precision.requested))
    keys = ("recipe", "model", "target", "precision", "parity", "task", "size", "verdict")
    return [{key: report.model_dump(mode="json")[key] for key in keys} for report in ordered]


def markdown(reports: Sequence[Report]) -> str:
    """The table as Markdown, with what all runs have in common above it."""
    lines = [[escape(cell) for cell in row.values()] for row in rows(reports)]
    return f"{_setting(reports)}\n\n{render_table(HEADS, lines)}\n"


def _row(report: Report) -> tuple[str, ...]:
    effective, share = report.precision.effective, report.precision.int8_share
    asked = report.precision.requested
    return (
        report.model,
        report.target.requested,
        asked if asked == effective else f"{asked} (runs {effective})",
        w.percent(share, 1) if asked == "int8" else "",
        _parity(report.parity.outputs),
        ""
        if report.attention is None or report.attention.correlation is None
        else f"{report.attention.correlation:.4f}",
        *_task(report.task),
        _size(report),
        f"{MARKS[report.verdict]} {report.verdict}",
    )


def _parity(outputs: Mapping[str, OutputParity]) -> str:
    """The worst output: by SQNR where that is what it was judged by, else by its largest error."""
    if not outputs:
        return "not compared"
    judged_by_signal = any("SQNR" in o.limit for o in outputs.values())
    if judged_by_signal:
        name, worst = min(outputs.items(), key=lambda kv: _or(kv[1].sqnr_db, 200.0))
        return f"{name}: {w.decibels(worst.sqnr_db)}"
    name, worst = max(outputs.items(), key=lambda kv: _or(kv[1].max_abs, 0.0))
    return f"{name}: {w.error(worst.max_abs)}"


def _or(value: float | None, instead: float) -> float:
    return instead if value is None else value


def _task(task: TaskReport | None) -> tuple[str, str, str]:
    if task is None:
        return "", "", ""
    metric = f"{task.name}, {w.metric(task.metric)} of {task.samples}"
    return metric, w.figure(task.reference, task.unit), w.figure(task.engine, task.unit)


def _size(report: Report) -> str:
    if report.size is None:
        return ""
    return f"{w.size(report.size.reference_bytes)} → {w.size(report.size.engine_bytes)}"


def _setting(reports: Sequence[Report]) -> str:
    """Machine and versions, once; runs of several machines are said to be so."""
    found = [r.environment for r in reports if r.environment is not None]
    machines = sorted({f"{e.cpu} ({', '.join(e.isa)})" for e in found})
    versions = sorted({f"{name} {version}" for e in found for name, version in e.versions.items()})
    where = "; ".join(map(escape, machines)) or "an unnamed machine"
    return f"{len(reports)} runs on {where}. Versions: {', '.join(map(escape, versions))}."
