"""``why-not``: what a rule would do to a file, and where it stops short."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeattn.cli.ui import Ui
    from edgeattn.rewrite import Look
    from edgeattn.rewrite._rule import Miss


def show_one(ui: Ui, look: Look) -> None:
    """Every near miss of a rule, nearest first."""
    ui.emit([vars(miss) for miss in look.misses], f"{look.rule}: {_verdict(look)}")
    if look.misses:
        rows = [(_place(m), m.anchor, m.culprit, m.reason) for m in look.misses]
        ui.table(("where", "looked at", "broken by", "reason"), rows)


def show_all(ui: Ui, looks: Sequence[Look]) -> None:
    """One line a rule: how often it would fire, and its nearest miss."""
    ui.emit(
        [
            {
                **{"rule": look.rule, "fires": look.fires, "failed": look.failed, "misses": len(look.misses)},
                "nearest": vars(look.misses[0]) if look.misses else None,
            }
            for look in looks
        ]
    )
    rows = [(look.rule, str(look.fires), _nearest(look)) for look in looks]
    ui.table(("rule", "would fire", "nearest miss"), rows)
    ui.log("each rule after those above it; `edgeattn why-not RULE IN` lists every miss of one")


def _verdict(look: Look) -> str:
    if look.failed:
        return look.failed
    fires = f"would fire {_counted(look.fires, 'time')}" if look.fires else "would not fire"
    if look.misses:
        return f"{fires}; {_counted(len(look.misses), 'near miss', 'near misses')}, the nearest first"
    return f"{fires}; no near miss: what it starts from is {'nowhere else' if look.fires else 'not in this graph'}"


def _counted(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"


def _nearest(look: Look) -> str:
    if look.failed or not look.misses:
        return look.failed
    miss = look.misses[0]
    place = _place(miss)
    more = f" (and {len(look.misses) - 1} more)" if len(look.misses) > 1 else ""
    return f"{place + ', ' if place else ''}{miss.culprit}: {miss.reason}{more}"


def _place(miss: Miss) -> str:
    graph = "" if miss.graph == "main" else miss.graph
    return ": ".join(part for part in (graph, miss.module) if part)
