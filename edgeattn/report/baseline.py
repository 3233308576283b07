"""A run against an earlier one: did parity, the task or the latency fall behind?

Parity may not change from passing to failing. The task metric may not fall by more than the baseline's own 95 %
half-width: less than that the baseline itself could not tell. A figure in dB or without a unit may move by a thousandth
in any case, since its paired interval can be as narrow as a rounding error. Latency is compared as *speedup over the
same reference* and fails when the intervals are apart by more than 5 % (CI machines are noisy); on another CPU, with
other threads or without a settled control it is ``inconclusive``: milliseconds of two machines say nothing about the
code.
"""

from __future__ import annotations

from edgeattn.report import wording
from edgeattn.report.schema import GateReport, GateVerdict, LatencyReport, Report

LATENCY_SLACK = 0.05
ROUNDING = 1e-3  # of a figure that is no share: another CPU adds up in another order


def regressions(report: Report, baseline: Report) -> list[GateReport]:
    """One gate per section that the baseline has."""
    found = []
    if baseline.parity.outputs:
        found.append(_parity(report, baseline))
    if baseline.task is not None:
        found.append(_task(report, baseline))
    if baseline.latency is not None:
        found.append(_latency(report, baseline))
    return found


def _parity(report: Report, baseline: Report) -> GateReport:
    new = report.parity.outputs
    worse = [
        name
        for name, old in baseline.parity.outputs.items()
        if old.verdict != "fail" and (name not in new or new[name].verdict == "fail")
    ]
    gone = [name for name in worse if name not in new]
    why = "no longer there: " + ", ".join(gone) if gone else ", ".join(worse)
    return _gate("parity", "as before", f"{len(worse)} outputs fell behind", "fail" if worse else "pass", why)


def _task(report: Report, baseline: Report) -> GateReport:
    old, new = baseline.task, report.task
    assert old is not None
    if new is None or new.engine is None or old.engine is None:
        return _gate("task", old.engine, None, "fail", "the task was not run this time")
    if (new.name, new.samples) != (old.name, old.samples):
        why = f"{new.name} on {new.samples} samples is not {old.name} on {old.samples}"
        return _gate("task", old.engine, new.engine, "inconclusive", why)
    low, high = old.ci95
    slack = (high - low) / 2 if low is not None and high is not None else 0.0
    if old.unit != "share":
        slack = max(slack, ROUNDING * abs(old.engine))
    worse = old.engine - new.engine if new.higher_is_better else new.engine - old.engine
    before, within = wording.figure(old.engine, old.unit), wording.lost(slack, old.unit)
    why = f"{wording.metric(old.metric)} {before} before, {within} is within the baseline's own uncertainty"
    limit = old.engine - slack if new.higher_is_better else f"≤ {wording.figure(old.engine + slack, new.unit)}"
    return _gate("task", limit, new.engine, "fail" if worse > slack else "pass", why, new.unit)


def _latency(report: Report, baseline: Report) -> GateReport:
    old, new = baseline.latency, report.latency
    assert old is not None
    if new is None:
        return _gate("latency", old.speedup.median, None, "fail", "latency was not measured this time")
    before, now = old.speedup, new.speedup
    reason = _not_comparable(report, baseline, new, old)
    old_low, new_high = before.ci95[0], now.ci95[1]
    if reason or old_low is None or new_high is None or before.median is None:
        return _gate("latency", before.median, now.median, "inconclusive", reason or "an interval is missing")
    limit = old_low * (1 - LATENCY_SLACK)
    why = f"speedup {before.median:.3g} before; fails when this run's upper bound {new_high:.3g} is below {limit:.3g}"
    return _gate("latency", limit, new_high, "fail" if new_high < limit else "pass", why)


def _not_comparable(report: Report, baseline: Report, new: LatencyReport, old: LatencyReport) -> str:
    here, there = report.environment, baseline.environment
    if here is None or there is None:
        return "a report does not name its CPU"
    if here.cpu != there.cpu:
        return f"measured on '{here.cpu}', the baseline on '{there.cpu}'"
    if new.threads != old.threads or new.unit != old.unit:
        return f"{new.threads} threads per {new.unit}, the baseline {old.threads} per {old.unit}"
    if "inconclusive" in (new.verdict, old.verdict):
        return new.why if new.verdict == "inconclusive" else "the baseline's own control did not settle"
    return ""


def _gate(
    name: str,
    limit: float | str | None,
    observed: float | str | None,
    verdict: GateVerdict,
    why: str,
    unit: str = "share",
) -> GateReport:
    return GateReport(name=f"baseline_{name}", limit=limit, observed=observed, why=why, verdict=verdict, unit=unit)
