"""What the rewrite stage did, in words: the command line, Markdown and HTML say it alike.

``notes`` are those of the stage's record; of a report that an older edgeattn wrote, what it lacks is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeattn.report.schema import Report

_PLACES = 4  # named in a table; the others are counted


def notes_of(report: Report) -> Mapping[str, Any]:
    """The notes of a report's rewrite stage; empty where an older edgeattn wrote none of what is told here."""
    notes = next((stage.notes for stage in report.stages if stage.name == "rewrite"), {})
    return notes if "attention" in notes else {}


def found(attention: Sequence[Mapping[str, Any]]) -> str:
    """``found 3 cbam (blocks.0.attention, …)``; ``no attention found``."""
    by_kind: dict[str, list[str]] = {}
    for a in attention:
        by_kind.setdefault(str(a["kind"]), []).append(str(a["module"] or a["gate"]))
    kinds = [f"{len(where)} {kind} ({places(_counted(where))})" for kind, where in by_kind.items()]
    return f"found {'; '.join(kinds)}" if kinds else "no attention found"


def _counted(where: Sequence[str]) -> list[str]:
    """Each place once: a module that a loop called ten times is ``decoder.attention ×10``."""
    return [place if count == 1 else f"{place} ×{count}" for place, count in Counter(where).items()]


def places(where: Sequence[str]) -> str:
    """The first few places, and how many more."""
    more = f" and {len(where) - _PLACES} more" if len(where) > _PLACES else ""
    return ", ".join(where[:_PLACES]) + more


def untouched(attention: Sequence[Mapping[str, Any]]) -> str:
    """Attention that no rule changed: ``2 additive, 1 se``; empty where each was changed by some rule."""
    counts = Counter(str(a["kind"]) for a in attention if not a["rules"])
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())


def changes(notes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """``(what, from -> to)`` of nodes, operators, parameters and multiply-accumulates."""
    rules = notes.get("rules") or [{"nodes_before": 0, "nodes_after": 0}]
    rows = [("nodes", _step(rules[0]["nodes_before"], rules[-1]["nodes_after"]))]
    if "operators_before" in notes:
        rows.append(("operators", operators(notes["operators_before"], notes["operators"])))
    for what, label in (("parameters", "parameters"), ("macs", "MACs")):
        counts = {graph: pair for graph, pair in notes.get(what, {}).items() if any(pair)}
        told = [f"{graph + ' ' if len(notes[what]) > 1 else ''}{_step(*pair)}" for graph, pair in counts.items()]
        rows += [(label, ", ".join(told))] if told else []
    return rows


def operators(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """``Gemm 12 -> 0, Conv 11 -> 17``: those whose number changed, the largest change first."""
    old, new = Counter(before["histogram"]), Counter(after["histogram"])
    differ = sorted(old.keys() | new.keys(), key=lambda op: (-abs(new[op] - old[op]), op))
    return ", ".join(f"{op} {old[op]} -> {new[op]}" for op in differ if old[op] != new[op]) or "as before"


def _step(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"
