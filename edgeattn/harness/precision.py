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
        The label counts all graphs together, so that a float graph cannot hide behind an INT8 one.
    """
    counts: Counter[str] = Counter()
    for graph in effective.values():
        counts.update(graph["precision"]["counts"])
    total = sum(counts.values())
    shown = " + ".join(f"{label} {count}/{total}" for label, count in counts.most_common())
    return Precision(
        requested=requested,
        effective=shown or "no weighted operator",
        int8_share=counts["int8"] / total if total else 0.0,
        detail=dict(effective),
    )
