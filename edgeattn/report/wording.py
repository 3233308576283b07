"""Figures as people read them; every format of the report says them the same way."""

from __future__ import annotations

from edgeattn.report.schema import AttentionReport, BuildReport, GateReport, Interval, TimeReport

GATE_MEANING = {
    "board": "the board it was made for",
    "precision": "runs in what was asked for",
    "parity": "outputs match PyTorch",
    "task_drop": "task metric lost",
    "task_min": "task metric",
    "task_max": "task metric",
    "agreement": "same prediction as PyTorch",
    "speedup": "times faster, lower bound",
    "int8_share": "multiply-accumulates in INT8",
    "size_ratio": "size of the original",
    "baseline_parity": "parity against the baseline",
    "baseline_task": "task against the baseline",
    "baseline_latency": "speedup against the baseline",
}
_SIGNS = {
    **{
        "precision": "≥",
        "task_drop": "≤",
        "task_max": "≤",
        "size_ratio": "≤",
        "task_min": "≥",
        "agreement": "≥",
        "speedup": "≥",
        "int8_share": "≥",
    },
    **{"baseline_task": "≥", "baseline_latency": "≥"},
}
_SHARES = {"precision", "agreement", "int8_share", "size_ratio"}
_TASK_FIGURES = {"task_min", "task_max", "baseline_task"}
_POINTS = {"share": "pp"}
_ABBREVIATIONS = {"psnr", "ssim"}


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits, ``n/a`` for None."""
    if value is None:
        return "n/a"
    return f"{value:.{digits}g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.{max(1, digits - 1)}e}"


def error(value: float | None) -> str:
    """An absolute error: ``1.2e-06``."""
    return "n/a" if value is None else "0" if value == 0 else f"{value:.1e}"


def decibels(value: float | None) -> str:
    """``31.2 dB``; 200 is the cap for equal arrays."""
    return "n/a" if value is None else "equal" if value >= 200 else f"{value:.1f} dB"


def percent(value: float | None, digits: int = 2) -> str:
    """A share as percent: ``98.61 %``."""
    return "n/a" if value is None else f"{100 * value:.{digits}f} %"


def metric(name: str) -> str:
    """A metric's name in words: ``accuracy``, ``exact match``, ``PSNR``."""
    return name.upper() if name in _ABBREVIATIONS else name.replace("_", " ")


def figure(value: float | None, unit: str = "share") -> str:
    """A task metric in its unit: ``98.61 %``, ``31.42 dB``, ``2.173``."""
    if unit == "share" or value is None:
        return percent(value)
    return f"{value:.2f} {unit}" if unit else f"{value:.3f}"


def lost(value: float | None, unit: str = "share") -> str:
    """By how much a task metric got worse: ``0.14 pp``, ``0.02 dB``, ``0.013``."""
    if value is None:
        return "n/a"
    return f"{_lost(value, unit)} {_POINTS.get(unit, unit)}".rstrip()


def milliseconds(value: float | None) -> str:
    """Latency: ``12.3 ms``, ``4.5 µs``."""
    if value is None:
        return "n/a"
    return f"{value:.3g} ms" if value >= 0.1 else f"{1000 * value:.3g} µs"


def times(value: float | None) -> str:
    """A ratio: ``3.42×``."""
    return "n/a" if value is None else f"{value:.3g}×"


def control(value: float | None) -> str:
    """A ratio that should be 1, with the digits that show whether it is: ``1.0004×``."""
    return "n/a" if value is None else f"{value:.4f}×"


def interval(bounds: Interval) -> str:
    """A ratio's interval: ``3.38–3.47×``."""
    low, high = bounds
    return "n/a" if low is None or high is None else f"{low:.4g}–{high:.4g}×"


def lost_interval(bounds: Interval, unit: str = "share") -> str:
    """Interval of what a task metric lost: ``[-0.10, 0.62] pp``, ``[0.012, 0.031] dB``."""
    low, high = bounds
    if low is None or high is None:
        return "n/a"
    return f"[{_lost(low, unit)}, {_lost(high, unit)}] {_POINTS.get(unit, unit)}".rstrip()


def _lost(value: float, unit: str) -> str:
    """The digits of a loss; one that rounds to zero has no sign."""
    scale, digits = (100, 2) if unit == "share" else (1, 3)
    return f"{round(scale * value, digits) + 0.0:.{digits}f}"


def time_in_words(profile: TimeReport) -> str:
    """One line of where a run's time goes: ``12.1 ms a run, 71.0 % products in int8, …; attention 30.1 %``."""
    whole = profile.total_ms or 1.0
    kinds = ", ".join(f"{percent((spent or 0.0) / whole, 1)} {name}" for name, spent in profile.kinds.items() if spent)
    ran = ", ".join(f"{percent(share, 1)} in {name}" for name, share in profile.macs_in.items())
    return (
        f"{milliseconds(profile.total_ms)} a run (median of {profile.runs}, {profile.threads} threads): {kinds}; "
        f"attention {percent(profile.attention_share, 1)}; multiply-accumulates: {ran or 'none with stored weights'}"
    )


def size(count: int) -> str:
    """Bytes in decimal units: ``102.4 MB``."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def build(found: BuildReport) -> str:
    """``built in 5.6 s with at most 734.0 MB more``: seconds, and by how much the process's memory grew."""
    held = "" if found.peak_bytes is None else f" with at most {size(found.peak_bytes)} more"
    return f"built in {number(found.seconds)} s{held}"


def gate_value(gate: GateReport, value: float | bool | str | None) -> str:
    """A gate's limit or observation in its own unit."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "all outputs" if value else "not asked"
    if isinstance(value, str):
        return value
    if gate.name == "task_drop":
        return lost(value, gate.unit)
    if gate.name in _TASK_FIGURES:
        return figure(value, gate.unit)
    if gate.name in _SHARES:
        return percent(value)
    return times(value)


def gate_limit(gate: GateReport) -> str:
    """The limit with its sign: ``≤ 0.50 %``."""
    shown = gate_value(gate, gate.limit)
    signed = gate.name in _SIGNS and gate.limit is not None and not isinstance(gate.limit, str)
    return f"{_SIGNS[gate.name]} {shown}" if signed else shown


def attention(seen: AttentionReport) -> str:
    """How far both sides attend to the same places, in one sentence."""
    places = "target positions" if seen.kind == "alignment" else "maps"
    worst = "" if seen.maps == 1 else f" or more (least in {seen.worst})"
    correlation = "no figure" if seen.correlation is None else f"{seen.correlation:.4f}"
    focus = "" if seen.same_focus is None else f"; {percent(seen.same_focus, 1)} of {places} peak at the same place"
    count = f"{seen.maps} attention map{'s' if seen.maps > 1 else ''}"
    return f"{count} of a real sample correlate with PyTorch's by {correlation}{worst}{focus}."
