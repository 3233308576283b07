"""Effective precision: what an engine says it executes, held beside what was asked of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from edgeattn.report.schema import LayerPrecision, Precision

_HALVES = ("fp16", "bf16")
_LARGEST = 5


def audit(requested: str, effective: Mapping[str, Any]) -> Precision:
    """Sum an engine's executed multiply-accumulates over its graphs.

    Args:
        requested: the precision asked for.
        effective: per graph, what :meth:`edgeattn.backends.Backend.compile` read back.

    Returns:
        The share of the multiply-accumulates that run in what was asked for, over all graphs together, so that a float
        graph cannot hide behind an INT8 one; by nodes where no weights are stored. Nothing to count has no share.
    """
    counts: Counter[str] = Counter()
    macs: Counter[str] = Counter()
    for graph in effective.values():
        counts.update(graph["precision"]["counts"])
        macs.update(_macs_in(graph["precision"]))
    work = macs if macs.total() else counts
    shares = {precision: count / work.total() for precision, count in work.items()} if work.total() else {}
    return Precision(
        requested=requested,
        effective=_label(counts, shares),
        int8_share=shares.get("int8", 0.0),
        share=_share(requested, shares) if shares else None,
        macs_in=dict(macs),
        elsewhere=tuple(_elsewhere(requested, effective, macs.total())),
        detail=dict(effective),
    )


def measured(effective: Mapping[str, Any]) -> dict[str, int | None]:
    """What building took, of an engine that tells: ``peak_bytes`` more memory, and ``bytes`` it made."""
    told = [graph["build"] for graph in effective.values() if "build" in graph]
    peaks = [build["peak_bytes"] for build in told if build.get("peak_bytes") is not None]
    return {"peak_bytes": max(peaks, default=None), "bytes": sum(build["bytes"] for build in told) if told else None}


def labelled(requested: str, effective: Mapping[str, Any]) -> Precision | None:
    """As :func:`audit`, of what a bundle recorded; None where it did not record enough to tell."""
    try:
        return audit(requested, effective) if effective else None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _macs_in(told: Mapping[str, Any]) -> Mapping[str, int]:
    """By precision; of a bundle from before that was recorded, INT8 and the rest."""
    if "macs_in" in told:
        return dict(told["macs_in"])
    rest = told["macs"] - told["int8_macs"]
    label = next((name for name in told["counts"] if name != "int8"), "unknown")
    return {name: count for name, count in (("int8", told["int8_macs"]), (label, rest)) if count}


def _share(requested: str, shares: Mapping[str, float]) -> float:
    """Of FP32 what runs in no half precision: a graph that holds INT8 asks for it itself."""
    if requested == "fp32":
        return 1.0 - sum(shares.get(half, 0.0) for half in _HALVES)
    return shares.get(requested, 0.0)


def _elsewhere(requested: str, effective: Mapping[str, Any], work: int) -> Iterator[LayerPrecision]:
    """The largest layers that do not run in what was asked for; of FP32, those in a half precision."""
    found = [
        (count, name, precision)
        for graph in effective.values()
        for precision, layers in graph["precision"].get("largest", {}).items()
        if precision in _HALVES or requested != "fp32"
        if precision != requested
        for name, count in layers.items()
    ]
    for count, name, precision in sorted(found, reverse=True)[:_LARGEST]:
        yield LayerPrecision(layer=name, precision=precision, share=count / work if work else None)


def _label(counts: Counter[str], shares: Mapping[str, float]) -> str:
    """What nine tenths of the work run in; else the precisions of all nodes, and how they divide."""
    if not counts:
        return "no weighted operator"
    label, most = max(shares.items(), key=lambda item: item[1])
    if most >= 0.9 and label != "unknown":
        return label
    return " + ".join(
        f"{label} {count}/{counts.total()}" if len(counts) > 1 else label for label, count in counts.most_common()
    )
