"""What a search for a mixture of precisions found, in words: the command line, Markdown and HTML say it alike.

``notes`` are those of the quantize stage; those of a scheme that did not search give nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeattn.report.schema import Report

HEAD = ("layers", "share of the MACs", "SQNR with these alone in INT8", "giving back costs", "runs in")


def notes_of(report: Report) -> Mapping[str, Any]:
    """The notes of a report's quantize stage; empty where nothing was searched."""
    notes = next((stage.notes for stage in report.stages if stage.name == "quantize"), {})
    return notes if "search" in notes else {}


def told(notes: Mapping[str, Any]) -> list[str]:
    """Lines that a reader should not miss."""
    if "search" not in notes:
        return []
    s = notes["search"]
    before, reached = _level(s["before"]), _level(s["reached"])
    floats = f"{s['groups_in_float']} of {s['groups']} groups of layers stay in float"
    left = f"{s['reached']['int8_macs']:.1%} of the MACs are left to INT8"
    gain = f"{before} -> {reached}" if s["groups_in_float"] else f"{reached} as it is"
    lines = [f"mixed: {floats}, {left}; {gain} on {s['target']} ({s['asked']} asked)"]
    if s["task"]:
        low, high = s["reached"]["ci95"]
        interval = f"95 % interval of the drop {low:.4f} to {high:.4f} over {s['reached']['samples']} samples"
        lines.append(f"mixed: its budget was measured on {s['task']} ({interval}); the task section scores others")
    if not s["held_out"]:
        lines.append("mixed: too few calibration samples to hold some out, so it was judged on those that calibrated")
    if s["cut"]:
        lines.append("mixed: the search was cut by its time limit; run the same again to look for less work in float")
    if s["not_resumable"]:
        lines.append(f"mixed: the search cannot be resumed, its trials were not written down: {s['not_resumable']}")
    return lines


def rows(notes: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The ranking, a row a group of layers, for columns ``HEAD``."""
    return [_row(row) for row in notes["search"]["ranking"]] if "search" in notes else []


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    cost = "" if row["cost_db"] is None else f"{row['cost_db']:.1f} dB"
    where = "float" if row["float"] else "INT8"
    return str(row["layers"]), f"{row['macs']:.2%}", f"{row['alone_sqnr_db']:.1f} dB", cost, where


def _level(figures: Mapping[str, Any]) -> str:
    lost = f" and {figures['drop']:.2%} of the {figures['metric']} lost" if "drop" in figures else ""
    return f"{figures['sqnr_db']:.1f} dB{lost}"
