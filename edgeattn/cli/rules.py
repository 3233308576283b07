"""What ``list rules`` and ``explain RULE`` tell of rewrite rules: the card, the drawing, and what was measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeattn.cli.ui import Ui
    from edgeattn.rewrite._benefits import Entry
    from edgeattn.rewrite._rule import Rule


def list_rules(ui: Ui) -> None:
    """Every rule in the order in which it is applied: what it does, how exact, when, and what it is worth."""
    from edgeattn import registry
    from edgeattn.rewrite import ORDER, _benefits

    known = _benefits.known()
    facts = [facts_of(name, registry.get("rewrite", name), known.get(name)) for name in ORDER]
    engines = sorted({engine for fact in facts for engine in fact["benefit"]})
    ui.emit(facts)
    rows = [
        (
            *(fact["rule"], fact["about"], fact["exactness"], fact["applied"]),
            *(str(known[fact["rule"]].engines[e]) if e in fact["benefit"] else "not measured" for e in engines),
        )
        for fact in facts
    ]
    ui.table(("rule", "what", "exactness", "applied", *engines), rows)
    ui.log("speedup of a workload that shows the rule, one thread; `edgeattn explain RULE` tells of what and where")


def facts_of(name: str, rule: Rule, entry: Entry | None) -> dict[str, Any]:
    """What is known of a rule, JSON-able; ``benefit`` is empty where nothing was measured."""
    from edgeattn import registry

    exact = rule.exactness
    facts: dict[str, Any] = {
        "rule": name,
        "about": registry.card("rewrite", name).splitlines()[0].removeprefix(f"{name}: "),
        "exactness": exact.kind,
        "condition": exact.condition,
        "opsets": list(rule.opsets),
        "applied": _when(rule)[0],
        "benefit": {},
    }
    if entry is not None:
        facts["benefit"] = {engine: asdict(found) for engine, found in entry.engines.items()}
        facts["workload"] = {"nodes": list(entry.nodes), "fired": entry.fired, "realistic": entry.realistic}
    return facts


def explain_rule(ui: Ui, name: str, asked: str) -> None:
    """The card, how exact, the smallest example drawn before and after, and what was measured."""
    from edgeattn import registry
    from edgeattn.rewrite import _benefits

    rule: Rule = registry.get("rewrite", name)
    facts = facts_of(name, rule, _benefits.known().get(name))
    card = registry.card("rewrite", name)
    ui.emit({"name": asked, "kind": "rewrite", "card": card, **facts, "example": drawing(rule)}, card_of(name))


def card_of(name: str) -> str:
    """Everything that is told of a rule, as text."""
    from edgeattn import registry
    from edgeattn.rewrite import _benefits

    rule: Rule = registry.get("rewrite", name)
    drawn = [f"{side}\n{_indented(text)}" for side, text in drawing(rule).items()]
    example = "Smallest example, drawn from the graphs:\n\n" + _indented("\n\n".join(drawn))
    return "\n\n".join(
        [registry.card("rewrite", name), _promise(rule), example, _measured(_benefits.known().get(name))]
    )


def drawing(rule: Rule) -> dict[str, str]:
    """The rule's smallest example ``before`` and ``after`` it."""
    from edgeattn.rewrite import _apply, _draw

    source = rule.examples()[0]
    return {"before": _draw.draw(source), "after": _draw.draw(_apply.apply(rule, source).program)}


def _promise(rule: Rule) -> str:
    """Exactness, opsets and when the rule is applied, in a line or two."""
    exact = rule.exactness
    kind = f"{exact.kind}, where {exact.condition}" if exact.condition else exact.kind
    if exact.atol or exact.rtol:
        kind += f" (atol {exact.atol:g}, rtol {exact.rtol:g})"
    return f"Exactness: {kind}. Opsets {rule.opsets[0]} to {rule.opsets[1]}.\nApplied: {_when(rule)[1]}."


def _when(rule: Rule) -> tuple[str, str]:
    """When a rule is applied, in short and in full."""
    measured = "only where a measurement on the target shows it faster: `rewrite --target T`, or named with --only"
    if rule.reshapes:
        return "where asked for", "only where it is asked for, since it changes how the model is used: --also"
    if rule.restores:
        return "where PyTorch judges", "only where PyTorch's own outputs can judge the result, as in `edgeattn run`"
    return ("where measured faster", measured) if rule.measured else ("always", "always")


def _measured(entry: Entry | None) -> str:
    """The benefit table with its machine."""
    if entry is None or not entry.engines:
        return "Benefit: not measured yet; `python -m edgeattn.benefits` measures it here."
    what = "a workload of realistic size" if entry.realistic else "its smallest example"
    lines = [f"Benefit on {what}: {entry.nodes[0]} -> {entry.nodes[1]} nodes, fired {_times(entry.fired)}"]
    for found in entry.engines.values():
        times = "" if found.before_ms is None else f": {found.before_ms:.4g} -> {found.after_ms:.4g} ms"
        why = {"refused": f" ({found.why})", "inconclusive": " (the machine was too busy to tell)"}.get(
            found.verdict, ""
        )
        lines.append(f"  {found.engine} {found.version}{times}, {found}{why}")
    first = next(iter(entry.engines.values()))
    threads = "one thread" if first.threads == 1 else f"{first.threads} threads"
    return "\n".join([*lines, f"  FP32, {threads}, {first.cpu}, {first.day}; in brackets the 95 % interval"])


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines())
