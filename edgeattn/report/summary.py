"""The report as Markdown: what a person reads in a CI summary or a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgeattn.errors import printable
from edgeattn.report import calibrating, rewriting, searching
from edgeattn.report import wording as w
from edgeattn.report.schema import Report, SectionVerdict, Verdict

MARKS: dict[SectionVerdict | Verdict, str] = {
    **{"pass": "✅", "warn": "⚠️", "fail": "❌", "inconclusive": "❔", "n/a": "➖"},
    "built": "🛠️",
}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&!])")


def render(report: Report) -> str:
    """Verdict, headline figures, gates, parity, task, latency, rewrites, what INT8 costs, environment."""
    parts = [_head(report), _gates(report), _board(report), _parity(report)]
    parts += [
        _task(report),
        _attention(report),
        _latency(report),
        _profile(report),
        _rewrites(report),
        _calibration(report),
        _sensitivity(report),
    ]
    return "\n\n".join(filter(None, [*parts, _notes(report), _environment(report)])) + "\n"


def escape(text: str) -> str:
    """Text from a user's file as plain words: no markup, no line breaks, no control characters."""
    return _SPECIAL.sub(r"\\\1", printable(text))


def _head(report: Report) -> str:
    title = escape(report.model or report.recipe or "edgeattn report")
    lines = [f"# {MARKS[report.verdict]} {title}: {report.verdict}", ""]
    lines.append(
        f"Target {_both(report.target.requested, report.target.effective)}, "
        f"precision {_both(report.precision.requested, report.precision.effective)}."
    )
    if not report.execution.ran:
        lines.append(f"**Built, not run**: {escape(report.execution.why)}.")
    figures = []
    if report.latency is not None:
        speedup = report.latency.speedup
        ratio = f"{w.times(speedup.median)} the speed of {escape(report.latency.baseline)} ({w.interval(speedup.ci95)})"
        settled = report.latency.verdict != "inconclusive"
        alone = f"**{w.milliseconds(report.latency.engine.p50_ms)}** per {escape(report.latency.unit)}"
        paired = f"**{ratio}**" if settled else f"speed **not settled** (showed {ratio})"
        figures.append(alone if report.latency.alone else paired)
    if report.task is not None:
        figures.append(
            f"{escape(w.metric(report.task.metric))} **{w.figure(report.task.engine, report.task.unit)}**, "
            f"drop {w.lost(report.task.drop, report.task.unit)}"
        )
    if report.size is not None:
        figures.append(f"**{w.size(report.size.engine_bytes)}** from {w.size(report.size.reference_bytes)}")
    if report.build is not None:
        figures.append(w.build(report.build))
    return "\n".join(lines) + ("\n\n" + " · ".join(figures) if figures else "")


def _both(requested: str, effective: str) -> str:
    return f"**{escape(effective)}**" + ("" if requested == effective else f" (asked for {escape(requested)})")


def _gates(report: Report) -> str:
    if not report.gates:
        return "No gate was asked: figures are reported and not judged."
    rows = [
        (MARKS[g.verdict] + " " + g.verdict, escape(g.name), escape(w.gate_limit(g)),
         escape(w.gate_value(g, g.observed)), escape(g.why))
        for g in report.gates
    ]  # fmt: skip
    return "## Gates\n\n" + render_table(("verdict", "gate", "limit", "observed", "why"), rows)


def _board(report: Report) -> str:
    b = report.board
    if b is None:
        return ""
    rows = [(escape(what), escape(told)) for what, told in b.rows()]
    return "## Board\n\n" + render_table(("", ""), rows)


def _parity(report: Report) -> str:
    rows = [
        (escape(stage.stage), escape(name), f"{MARKS[o.verdict]} {o.verdict}", w.error(o.max_abs),
         w.decibels(o.sqnr_db), "n/a" if o.cosine is None else f"{o.cosine:.5f}", str(o.nonfinite),
         escape(o.limit), escape(o.why or o.worst_case))
        for stage in report.parity.stages
        for name, o in stage.outputs.items()
    ]  # fmt: skip
    if not rows:
        return ""
    head = ("after", "output", "verdict", "max error", "SQNR", "cosine", "NaN/Inf", "limit", "why or worst case")
    return f"## Parity with {'PyTorch' if report.board is None else 'the reference'}\n\n" + render_table(head, rows)


def _task(report: Report) -> str:
    t = report.task
    if t is None:
        return ""
    said = (
        f"{escape(t.name)}, {t.samples} held-out samples, {escape(w.metric(t.metric))}: "
        f"PyTorch {w.figure(t.reference, t.unit)}, engine {w.figure(t.engine, t.unit)}, "
        f"drop {w.lost(t.drop, t.unit)} (95 % interval {escape(w.lost_interval(t.ci95, t.unit))})"
    )
    said += "." if t.agreement is None else f", same prediction on {w.percent(t.agreement)}."
    for name, pair in t.also.items():
        said += f" {escape(w.metric(name))}: PyTorch {w.number(pair.reference, 4)}, engine {w.number(pair.engine, 4)}."
    limit = "" if t.limit is None else f" Limit {w.lost(t.limit, t.unit)}: {MARKS[t.verdict]} **{t.verdict}**."
    return f"## Task\n\n{said}{limit}" + (f" {escape(t.why)}." if t.why else "")


def _latency(report: Report) -> str:
    l = report.latency
    if l is None:
        return ""
    rows = [
        (who, *(w.milliseconds(v) for v in (x.p50_ms, x.p90_ms, x.p95_ms, x.p99_ms)))
        for who, x in ((escape(l.baseline), l.reference), ("engine", l.engine))
    ]
    control = f"A/A control {w.control(l.aa_control.median)} ({w.interval(l.aa_control.ci95)})"
    return (
        f"## Latency per {escape(l.unit)}\n\n{render_table(('', 'median', 'p90', 'p95', 'p99'), rows)}\n\n"
        f"Speedup **{w.times(l.speedup.median)}**, 95 % interval {w.interval(l.speedup.ci95)}; {control}; "
        f"{l.rounds} rounds, {l.threads or 'default'} threads, {len(l.attempts)} attempt(s): "
        f"{MARKS[l.verdict]} {l.verdict}" + (f", {escape(l.why)}" if l.why else "")
    )


def _profile(report: Report) -> str:
    p = report.profile
    if p is None:
        return ""
    rows = [
        (escape(c.cause), w.milliseconds(c.milliseconds), w.percent(c.share, 1), str(c.count), escape(c.why),
         escape(c.do), escape(", ".join((c.modules or c.nodes)[:3])))
        for c in p.causes
    ]  # fmt: skip
    head = ("cause", "costs", "share", "nodes", "why", "what to do", "most of it in")
    said = f"{escape(w.time_in_words(p))}."
    warned = "".join(f"\n- {escape(line)}" for line in p.warnings)
    return "\n\n".join(filter(None, ["## Where the time goes", said, render_table(head, rows) if rows else "", warned]))


def _rewrites(report: Report) -> str:
    told = [r for r in report.rewrites if r.count or r.undone or r.measured]
    if not told:
        return ""
    rows = [
        (
            *(escape(r.rule), str(r.count), f"{r.nodes_before} → {r.nodes_after}", w.error(r.max_abs)),
            escape(rewriting.places(r.where)),
            escape(f"undone: {r.undone}" if r.undone else r.note),
        )
        for r in told
    ]
    table = render_table(("rule", "fired", "nodes", "max error", "where", ""), rows)
    return "\n\n".join(["## Rewrites", table, *_rewrite_story(report)])


def _rewrite_story(report: Report) -> list[str]:
    """The attention that was recognised, and what the rules changed in all."""
    notes = rewriting.notes_of(report)
    if not notes:
        return []
    lines = [f"- {what}: {escape(text.replace(' -> ', ' → '))}" for what, text in rewriting.changes(notes)]
    return [f"In the graph: {escape(rewriting.found(notes['attention']))}.", "\n".join(lines)]


def _sensitivity(report: Report) -> str:
    rows = [tuple(map(escape, row)) for row in searching.rows(searching.notes_of(report))]
    return "## What INT8 costs\n\n" + render_table(searching.HEAD, rows) if rows else ""


def _attention(report: Report) -> str:
    return "" if report.attention is None else escape(w.attention(report.attention))


def _calibration(report: Report) -> str:
    line = calibrating.of(report)
    return f"Calibrated on {escape(line)}." if line else ""


def _notes(report: Report) -> str:
    return "\n".join(f"- {escape(note)}" for note in report.notes)


def _environment(report: Report) -> str:
    e = report.environment
    if e is None:
        return ""
    versions = ", ".join(f"{escape(k)} {escape(v)}" for k, v in e.versions.items())
    load = "" if e.load is None else f", load {e.load:.2f}"
    isa = escape(", ".join(e.isa)) or "no INT8 instructions known"
    return f"<sub>{escape(e.cpu)}, {e.cores} cores ({isa}){load}. {versions}.</sub>"


def render_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are escaped already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
