"""The result of a rewrite as a person reads it, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.report import rewriting

if TYPE_CHECKING:
    from edgeattn.cli.ui import Ui
    from edgeattn.program import Program


def show(ui: Ui, result: Program, source: Path, out: Path | None, left: Path | None = None) -> None:
    """Emit what a rewrite did.

    Args:
        result: as ``edgeattn.rewrite`` returned it. source: the file it was read from.
        out: where it was written; None for a dry run. left: where examples of undone rules lie.
    """
    record = result.history[-1]
    rules = record.notes["rules"]
    assert result.reference is not None
    facts = {
        "out": None if out is None else str(out),
        **record.notes,
        "nodes": [rules[0]["nodes_before"], rules[-1]["nodes_after"]] if rules else [],
        **({"undone": str(left)} if left is not None else {}),
        "max_abs": max((r["max_abs"] for r in rules if not r.get("undone")), default=0.0),
        "judged_by": result.reference.origin,
        "seconds": record.seconds,
    }
    if ui.as_json:
        ui.emit(facts)
        return
    told = [r for r in rules if r["count"] or r.get("undone") or r.get("measured") or r.get("note")]
    ui.emit(None, f"{source}: {rewriting.found(facts['attention'])}")
    if told:
        rows = [(*_figures(rule), rewriting.places(rule.get("where", ())), _note(rule, left)) for rule in told]
        ui.table(("rule", "fired", "nodes", "max error", "where", "note"), rows)
    ui.emit(None, "\n".join([*_summary(facts), *_hint(facts, source)]))


def _summary(facts: Mapping[str, Any]) -> list[str]:
    """What changed over all rules, and what it was judged by."""
    wrote = "dry run, nothing was written" if facts["out"] is None else f"wrote {facts['out']}"
    if not any(r["count"] and not r.get("undone") for r in facts["rules"]):
        wrote += "" if facts["out"] is None else ", the graph as it was"
        return [f"no rule found anything to do; {wrote}"]
    rows = [*rewriting.changes(facts), *((side, _interface(facts[side], facts[f"{side}_after"])) for side in _SIDES)]
    seen = "equal" if facts["max_abs"] == 0 else f"within {facts['max_abs']:.1e}"
    judged = f"judged on {facts['cases']} cases against the {facts['judged_by']}: {seen}"
    return [*(f"{what:10}  {text}" for what, text in rows), f"{wrote}; {judged}; {facts['seconds']:.1f} s"]


_SIDES = ("inputs", "outputs")


def _interface(before: Sequence[str], after: Sequence[str]) -> str:
    same = list(before) == list(after)
    return f"as before: {', '.join(before)}" if same else f"{', '.join(before)} -> {', '.join(after)}"


def _figures(rule: Mapping[str, Any]) -> tuple[str, ...]:
    nodes = f"{rule['nodes_before']} -> {rule['nodes_after']}"
    error = "" if not rule["count"] else "0" if rule["max_abs"] == 0 else f"{rule['max_abs']:.1e}"
    return rule["rule"], str(rule["count"]), nodes, error


def _note(rule: Mapping[str, Any], left: Path | None) -> str:
    seen = f" (see {left / rule['repro']}/)" if left is not None and "repro" in rule else ""
    return f"undone: {rule['undone']}{seen}" if rule.get("undone") else str(rule.get("note", ""))


def _hint(facts: Mapping[str, Any], source: Path) -> list[str]:
    """What to ask where attention was found that no rule changed."""
    left = rewriting.untouched(facts["attention"])
    return [f"no rule changed {left}; `edgeattn why-not {source}` tells what each rule looked for"] if left else []
