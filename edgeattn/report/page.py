"""The report as one HTML page: no external resource, readable from disk, on a phone, in light and dark."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from edgeattn.errors import MissingPackage, printable
from edgeattn.report import calibrating, plots, rewriting, searching, wording
from edgeattn.report.schema import OutputParity, Report

if TYPE_CHECKING:
    from edgeattn.report.evidence import AttentionFigure, RawSamples

MARKS = {"pass": "✓", "warn": "!", "fail": "✕", "inconclusive": "?", "n/a": "–", "built": "⚒"}
SENTENCES = {
    "pass": "Every gate that was asked holds.",
    "fail": "At least one gate does not hold.",
    "inconclusive": "Nothing failed, but at least one gate could not be settled here: this is not a pass.",
    "built": "The engine was built and not run: what can be judged without running it holds, the rest is open.",
}
ERROR_DECADES = (-9.0, 1.0)
"""Bars of absolute errors span 1e-9 to 10, logarithmic."""
SQNR_SPAN_DB = 120.0


def render(report: Report, raw: RawSamples | None = None, attention: Sequence[AttentionFigure] = ()) -> str:
    """The page.

    Args:
        raw: latency samples to draw. attention: maps to draw, PyTorch beside the engine.

    Raises:
        MissingPackage: jinja2 or matplotlib is not installed.
    """
    plots.require()
    number = itertools.count(1)
    timed = report.latency
    words = (timed.unit, timed.baseline) if timed else ("call", "PyTorch")
    return str(
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            sentence=SENTENCES[report.verdict] if report.gates else "No gate was asked: nothing was judged.",
            latency=[] if raw is None else [_markup(p, next(number)) for p in plots.latency(raw, *words)],
            attention=[(f, [_markup(p, next(number)) for p in plots.attention(f)]) for f in attention],
            stages=report.parity.stages,
            w=wording,
            rewriting=rewriting,
            searching=searching,
            calibrating=calibrating,
            mark=MARKS.get,
            meaning=wording.GATE_MEANING,
            error_bar=error_bar,
            sqnr_bar=sqnr_bar,
            most=max(report.operators.histogram.values(), default=1),
        )
    )


def error_bar(output: OutputParity) -> float:
    """Length of an error's bar in percent, logarithmic; 0 for no error."""
    low, high = ERROR_DECADES
    if not output.max_abs:
        return 0.0
    return round(100 * min(1.0, max(0.02, (math.log10(output.max_abs) - low) / (high - low))), 1)


def sqnr_bar(output: OutputParity) -> float:
    """Length of a signal-to-noise bar in percent of 120 dB."""
    return 0.0 if output.sqnr_db is None else round(100 * min(1.0, max(0.0, output.sqnr_db / SQNR_SPAN_DB)), 1)


def _markup(panel: plots.Panel, number: int) -> dict[str, Any]:
    from markupsafe import Markup

    # The only unescaped values of the page: drawn by matplotlib, which escapes the texts in them.
    return {"caption": panel.caption, "alt": panel.alt, "svg": Markup(panel.svg.replace(plots.IDS, f"p{number}"))}


def environment() -> Any:
    """Where the pages' templates come from: values are escaped, and what is invisible in them is shown.

    Raises:
        MissingPackage: jinja2 is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise MissingPackage("jinja2", "report") from None

    def visible(value: Any) -> Any:
        # Names come from users' files: control and direction characters are shown, not obeyed.
        return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value, 2000)

    return jinja2.Environment(
        loader=jinja2.PackageLoader("edgeattn.report", "templates"),
        autoescape=True,
        finalize=visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
