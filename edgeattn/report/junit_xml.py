"""JUnit XML: every gate, parity output, the task and the latency as a test case, for CI systems that show those.

A failure carries the limit and what was seen. What could not be settled is *skipped* with its reason: JUnit has no
third answer, and a pass would be a claim.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass

from edgeattn.report import wording
from edgeattn.report.schema import Report, SectionVerdict, StageParity

# XML 1.0 cannot carry most control characters, lone surrogates, U+FFFE and U+FFFF, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One test case: its suite and name, how it ended, and what was asked and seen."""

    suite: str
    name: str
    verdict: SectionVerdict
    message: str
    seconds: float = 0.0


def render(report: Report) -> str:
    """The report as a JUnit document: one suite each for gates, parity per stage, task and latency."""
    return document(report.model, [*_gates(report), *_parity(report), *_task(report), *_latency(report)])


def document(model: str, cases: list[Case]) -> str:
    """Test cases as a JUnit document, a suite for each name of one."""
    root = ET.Element("testsuites", _counts(cases) | {"name": _text(f"edgeattn {model}".strip())})
    for suite in dict.fromkeys(c.suite for c in cases):
        mine = [c for c in cases if c.suite == suite]
        node = ET.SubElement(root, "testsuite", _counts(mine) | {"name": _text(suite)})
        for case in mine:
            _add(node, case)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _gates(report: Report) -> list[Case]:
    return [
        Case(
            "gates",
            g.name,
            g.verdict,
            f"limit {wording.gate_limit(g)}, observed {wording.gate_value(g, g.observed)}"
            + (f": {g.why}" * bool(g.why)),
        )
        for g in report.gates
    ]


def _parity(report: Report) -> list[Case]:
    # Failing after an earlier stage is a finding to read, but only the last stage is what the user gets.
    stages = report.parity.stages or _as_stage(report)
    last = len(stages) - 1
    return [
        Case(
            f"parity after {stage.stage}",
            name,
            o.verdict if i == last or o.verdict != "fail" else "warn",
            f"limit {o.limit}, observed {o.observed or wording.error(o.max_abs)}" + (f": {o.why}" * bool(o.why)),
        )
        for i, stage in enumerate(stages)
        for name, o in stage.outputs.items()
    ]


def _as_stage(report: Report) -> tuple[StageParity, ...]:
    outputs = report.parity.outputs
    return (StageParity(stage="the last stage", case_count=0, outputs=outputs),) if outputs else ()


def _task(report: Report) -> list[Case]:
    t = report.task
    if t is None:
        return []
    asked = "not judged" if t.limit is None else f"limit {wording.lost(t.limit, t.unit)}"
    seen = f"drop {wording.lost(t.drop, t.unit)} {wording.lost_interval(t.ci95, t.unit)} over {t.samples} samples"
    return [Case("task", f"{t.name} {t.metric}", t.verdict, f"{asked}, {seen}" + (f": {t.why}" * bool(t.why)))]


def _latency(report: Report) -> list[Case]:
    l = report.latency
    if l is None:
        return []
    seconds = (l.engine.p50_ms or 0.0) / 1000
    seen = f"{wording.times(l.speedup.median)} ({wording.interval(l.speedup.ci95)}) over {l.rounds} rounds"
    return [Case("latency", f"A/A control, {l.unit}", l.verdict, seen + (f": {l.why}" * bool(l.why)), seconds)]


def _add(suite: ET.Element, case: Case) -> None:
    attributes = {"classname": f"edgeattn.{case.suite}", "name": case.name, "time": f"{case.seconds:.6f}"}
    node = ET.SubElement(suite, "testcase", {k: _text(v) for k, v in attributes.items()})
    if case.verdict == "fail":
        failure = ET.SubElement(node, "failure", {"message": _text(case.message), "type": "limit"})
        failure.text = _text(case.message)
    elif case.verdict in ("inconclusive", "n/a"):
        ET.SubElement(node, "skipped", {"message": _text(f"{case.verdict}: {case.message}")})
    else:
        prefix = "warning: " if case.verdict == "warn" else ""
        ET.SubElement(node, "system-out").text = _text(prefix + case.message)


def _counts(cases: list[Case]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(c.verdict == "fail" for c in cases)),
        "errors": "0",
        "skipped": str(sum(c.verdict in ("inconclusive", "n/a") for c in cases)),
    }


def _text(value: str) -> str:
    return _FORBIDDEN.sub(lambda m: m.group().encode("unicode_escape", "surrogatepass").decode(), value)
