"""Gates: what was asked of a run, held against what was seen.

    precision    what was asked for is what runs: of INT8, FP16 and BF16 at least half of the multiply-accumulates and
                 never none, of FP32 nothing in a half precision. Another int8_share, where asked, takes that place
    parity       no output after the last stage fails
    task_drop    reference − engine metric, absolute, at most the limit; the verdict of the task section, which says
                 "inconclusive" where the sample cannot tell
    task_min     the engine's metric is at least the limit; task_max: at most, where lower is better
    agreement    share of test samples on which the engine predicts what PyTorch predicts, at least the limit
    speedup      lower 95 % bound of reference ÷ engine, at least the limit; inconclusive when the A/A control is
    int8_share   share of the multiply-accumulates that really run in INT8, at least the limit
    size_ratio   engine ÷ reference bytes, at most the limit

A gate that is None or False was not asked. A gate whose section is missing fails: nothing shows that it holds. Where
the engine can only be built here, a gate that needs it to run is "n/a", with the reason, and parity can still fail: on
the graph that the engine was built from.
Overall: fail if any gate fails, else inconclusive if any is, else pass; "built" in its place where the engine did not
run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from edgeattn.errors import UnknownName
from edgeattn.report import wording
from edgeattn.report.schema import GateReport, GateVerdict, OutputParity, Precision, Report, Verdict

GateLimit = float | bool | None


def evaluate(
    report: Report, gates: Mapping[str, GateLimit], baseline: Report | None = None
) -> tuple[list[GateReport], Verdict]:
    """Every gate that was asked, in the order above, and the overall verdict.

    Args:
        report: the run. gates: name -> limit. baseline: an earlier report that this one must not fall behind.

    Raises:
        UnknownName: a gate that does not exist.
    """
    for name in gates:
        if name not in GATES:
            raise UnknownName("gate", name, GATES)
    # A limit of 0 is asked for (task_drop: 0); only None and False are not.
    asked = {name: limit for name, limit in gates.items() if limit is not None and limit is not False}
    if report.precision.requested == "int8" and asked.get("precision") is True and "int8_share" in asked:
        asked["precision"] = 0.0
    judged = [_judged(name, report, asked[name]) for name in GATES if name in asked]
    if baseline is not None:
        from edgeattn.report.baseline import regressions

        fallen = regressions(report, baseline)
        judged += fallen if report.execution.ran else [unjudged(g.name, g.limit, report) for g in fallen]
    return judged, overall(judged, report.execution.ran)


def overall(gates: Iterable[GateReport], ran: bool = True) -> Verdict:
    """fail, else inconclusive, else pass, or built where the engine did not run."""
    verdicts = {g.verdict for g in gates}
    return (
        "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass" if ran else "built"
    )


_NEED_A_RUN = {"task_drop", "task_min", "task_max", "agreement", "speedup"}


def _judged(name: str, report: Report, limit: float | bool) -> GateReport:
    compiled = name != "int8_share" or report.precision.effective != NOT_COMPILED
    if not report.execution.ran and (name in _NEED_A_RUN or not compiled):
        return unjudged(name, limit, report)
    return GATES[name](report, limit)


def unjudged(name: str, limit: float | bool | str | None, report: Report) -> GateReport:
    """A gate that needs the engine to run, where it can only be built."""
    return GateReport(name=name, limit=limit, why=f"not judged here: {report.execution.why}", verdict="n/a")


NOT_COMPILED = "not compiled here"
"""What :func:`edgeattn.backends._common.not_compiled` calls the precision of an engine whose device is missing."""

MOST_OF_THE_WORK = 0.5
"""Least share in the precision asked for. Engines with their gates, first and last layers in float have 0.65 and more
here; one that computes most of its work in something else is not what its name says."""


def precision(found: Precision, limit: float | bool = True) -> GateReport:
    """Whether an engine may be called by the precision that was asked for.

    Args:
        found: what runs. limit: least share of the multiply-accumulates; True for the default. None of them always
            fails.
    """
    asked = found.requested
    if found.effective == NOT_COMPILED:
        why = "the device that compiles it is not here"
        return GateReport(name="precision", limit=limit, why=f"not judged here: {why}", verdict="n/a")
    least = float(limit) if limit is not True else 1.0 if asked == "fp32" else MOST_OF_THE_WORK
    # A report from before shares were recorded tells INT8's, or the label.
    share = found.share
    if share is None:
        share = found.int8_share if asked == "int8" else float(found.effective.startswith(asked))
    if found.effective == "no weighted operator":
        verdict: GateVerdict = "pass" if asked == "fp32" else "fail"
        return _gate("precision", least, None, verdict, f"no operator with weights that could run in {asked}")
    if share is None:
        return _missing("precision", least, f"the engine did not tell what runs in {asked}")
    good = share >= least - 1e-9 and share > 0
    return _gate("precision", least or "> 0 %", share, "pass" if good else "fail", "" if good else _ran(found, share))


def _ran(found: Precision, share: float) -> str:
    """What runs instead, and where."""
    layers = ", ".join(f"{e.layer} ({e.precision}, {wording.percent(e.share)})" for e in found.elsewhere[:3])
    told = f"asked for {found.requested}, runs in {found.effective}: {wording.percent(share)} of the work is as asked"
    return f"{told}; largest elsewhere: {layers}" if layers else told


def _precision(report: Report, limit: float | bool) -> GateReport:
    return precision(report.precision, limit)


def _parity(report: Report, limit: float | bool) -> GateReport:
    outputs = report.parity.outputs
    if not report.execution.ran:
        return _parity_of_graph(report)
    if not outputs:
        return _missing("parity", True, "no output was compared")
    failed = {n: o for n, o in outputs.items() if o.verdict == "fail"}
    unsure = [n for n, o in outputs.items() if o.verdict == "inconclusive"]
    judged = [n for n, o in outputs.items() if o.verdict != "n/a"]
    seen = f"{len(judged) - len(failed)} of {len(outputs)} outputs within limits"
    if failed:
        return _gate("parity", True, seen, "fail", _first(failed))
    if not judged:
        return _gate("parity", True, seen, "fail", "no output could be judged")
    return _gate("parity", True, seen, "inconclusive" if unsure else "pass", ", ".join(unsure))


def _parity_of_graph(report: Report) -> GateReport:
    """An engine is no better than its graph; whether it is as good shows where it runs."""
    stages = [s for s in report.parity.stages if s.case_count]
    failed = {n: o for s in stages[-1:] for n, o in s.outputs.items() if o.verdict == "fail"}
    if failed:
        return _gate("parity", True, "the graph it was built from", "fail", _first(failed))
    return unjudged("parity", True, report)


def _first(failed: Mapping[str, OutputParity]) -> str:
    name, first = next(iter(failed.items()))
    where = f" on case '{first.worst_case}'" if first.worst_case else ""
    return f"{name}: {first.observed or 'out of limits'}{where}, limit {first.limit}"


def _task_drop(report: Report, limit: float | bool) -> GateReport:
    task = report.task
    if task is None or task.drop is None:
        return _missing("task_drop", limit, "the task was not run")
    low, high = task.ci95
    interval = f"95 % interval {wording.lost_interval(task.ci95, task.unit)} over {task.samples} samples"
    if low is None or high is None:
        return _gate("task_drop", limit, task.drop, "fail", "the drop has no interval")
    verdict: GateVerdict = "pass" if high <= limit else "fail" if low > limit else "inconclusive"
    # The section's own words fit when it was judged by the same limit.
    told = task.why if task.limit == limit and task.verdict == verdict else ""
    return _gate("task_drop", limit, task.drop, verdict, "; ".join(filter(None, [interval, told])), task.unit)


def _task_min(report: Report, limit: float | bool) -> GateReport:
    return _task_bound("task_min", report, limit, higher_is_better=True)


def _task_max(report: Report, limit: float | bool) -> GateReport:
    return _task_bound("task_max", report, limit, higher_is_better=False)


def _task_bound(name: str, report: Report, limit: float | bool, *, higher_is_better: bool) -> GateReport:
    task = report.task
    if task is None or task.engine is None:
        return _missing(name, limit, "the task was not run")
    if task.higher_is_better is not higher_is_better:
        better, other = ("higher", "task_min") if task.higher_is_better else ("lower", "task_max")
        return _gate(name, limit, task.engine, "fail", f"{better} {task.metric} is better: ask {other}", task.unit)
    holds = task.engine >= limit if higher_is_better else task.engine <= limit
    return _gate(name, limit, task.engine, "pass" if holds else "fail", "", task.unit)


def _agreement(report: Report, limit: float | bool) -> GateReport:
    task = report.task
    return _at_least("agreement", limit, task.agreement if task else None, "the task was not run")


def _speedup(report: Report, limit: float | bool) -> GateReport:
    latency = report.latency
    if latency is None:
        return _missing("speedup", limit, "latency was not measured")
    low, high = latency.speedup.ci95
    if latency.verdict == "inconclusive":
        return _gate("speedup", limit, low, "inconclusive", latency.why)
    if low is None or high is None:
        return _missing("speedup", limit, "latency has no interval")
    why = f"median {latency.speedup.median:.3g}, 95 % interval [{low:.3g}, {high:.3g}]"
    return _gate("speedup", limit, low, "pass" if low >= limit else "fail", why)


def _int8_share(report: Report, limit: float | bool) -> GateReport:
    return _at_least("int8_share", limit, report.precision.int8_share, "the engine did not tell what runs in INT8")


def _size_ratio(report: Report, limit: float | bool) -> GateReport:
    ratio = report.size.ratio if report.size else None
    if ratio is None:
        return _missing("size_ratio", limit, "sizes were not recorded")
    return _gate("size_ratio", limit, ratio, "pass" if ratio <= limit else "fail")


GATES: dict[str, Callable[[Report, float | bool], GateReport]] = {
    "precision": _precision,
    "parity": _parity,
    "task_drop": _task_drop,
    "task_min": _task_min,
    "task_max": _task_max,
    "agreement": _agreement,
    "speedup": _speedup,
    "int8_share": _int8_share,
    "size_ratio": _size_ratio,
}


def _at_least(name: str, limit: float | bool, observed: float | None, absent: str) -> GateReport:
    if observed is None:
        return _missing(name, limit, absent)
    return _gate(name, limit, observed, "pass" if observed >= limit else "fail")


def _missing(name: str, limit: float | bool, why: str) -> GateReport:
    return _gate(name, limit, None, "fail", f"{why}: nothing shows that this holds")


def _gate(
    name: str,
    limit: float | bool | str,
    observed: float | str | None,
    verdict: GateVerdict,
    why: str = "",
    unit: str = "share",
) -> GateReport:
    return GateReport(name=name, limit=limit, observed=observed, why=why, verdict=verdict, unit=unit)
