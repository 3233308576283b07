"""Effective precision: what an engine says it executes, held beside what was asked of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from edgeattn.report.schema import Precision


def audit(requested: str, effective: Mapping[str, Any]) -> Precision:
    """Sum an engine's executed multiply-accumulate nodes over its graphs.

    Args:
        requested: the precision asked for.
        effective: per graph, what :meth:`edgeattn.backends.Backend.compile` read back.

    Returns:
        Nodes counted over all graphs together, so that a float graph cannot hide behind an INT8 one, and the share
        of the multiply-accumulates that run in INT8.
    """
    counts: Counter[str] = Counter()
    for graph in effective.values():
        counts.update(graph["precision"]["counts"])
    total = sum(counts.values())
    macs = sum(graph["precision"]["macs"] for graph in effective.values())
    in_int8 = sum(graph["precision"]["int8_macs"] for graph in effective.values())
    share = in_int8 / macs if macs else counts["int8"] / total if total else 0.0
    return Precision(requested=requested, effective=_label(counts, share), int8_share=share, detail=dict(effective))


def _label(counts: Counter[str], int8_share: float) -> str:
    """``int8`` where nine tenths of the work run in it; else the precision of all nodes, or how they divide."""
    if not counts:
        return "no weighted operator"
    if int8_share >= 0.9:
        return "int8"
    return " + ".join(
        f"{label} {count}/{counts.total()}" if len(counts) > 1 else label for label, count in counts.most_common()
    )
