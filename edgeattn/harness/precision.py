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
    shown = " + ".join(f"{label} {count}/{total}" for label, count in counts.most_common())
    return Precision(
        requested=requested,
        effective=shown or "no weighted operator",
        int8_share=in_int8 / macs if macs else 0.0,
        detail=dict(effective),
    )
