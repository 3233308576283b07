"""What INT8 was calibrated on, in one line: Markdown, HTML and the command line say it alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeattn.report.schema import Report


def of(report: Report) -> str:
    """The line of a report; empty where nothing was calibrated, or an older edgeattn recorded less."""
    notes = next((stage.notes for stage in report.stages if stage.name == "quantize"), {})
    return told(notes)


def told(notes: Mapping[str, Any]) -> str:
    """``300 samples, minmax ranges; 3 % of them grew by more than 5 % after the first 128; data 74d8e72254cd``.

    Args:
        notes: those of the quantize stage's record.
    """
    found = notes.get("calibration", {})
    if "fingerprint" not in found:
        return ""
    method = f", {found['method']} ranges" if "method" in found else ""
    settled = ""
    if "grew" in found:
        share = "none" if not found["grew"] else f"{found['grew']:.0%}".replace("%", " %")
        settled = f"; {share} of them grew by more than 5 % after the first {found['settled_from']}"
    count = notes.get("samples", "some")
    return f"{count} sample{'' if count == 1 else 's'}{method}{settled}; data {found['fingerprint'][:12]}"
