"""Looking at what a rule would do, without judging it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeattn.origin import module_of
from edgeattn.rewrite import _apply
from edgeattn.rewrite._rule import GraphRule, Look, Miss, Rule

if TYPE_CHECKING:
    from edgeattn.program import Program


def at(rule: Rule, program: Program, wanted: bool) -> tuple[Look, Program]:
    """What a rule would do to a program, and the program that the next rule sees.

    Args:
        rule: any. program: prepared as ``rewrite`` prepares it.
        wanted: whether somebody asks where it does not fire.
    """
    try:
        outcome = _apply.apply(rule, program)
        misses = outcome.misses
        if wanted and isinstance(rule, GraphRule):
            misses = tuple(_apply.find_misses(rule, program)) or misses
    except Exception as error:  # as in a rewrite, where the rule is undone
        return Look(rule.name, 0, (), f"raised {type(error).__name__}: {error}"), program
    nearest = sorted((_placed(miss, program) for miss in misses), key=lambda m: -m.near) if wanted else ()
    always = not (rule.measured or rule.restores or rule.reshapes)
    return Look(rule.name, outcome.count, tuple(nearest)), outcome.program if always else program


def _placed(miss: Miss, program: Program) -> Miss:
    """The miss with the module of its culprit, or of the node where the search began."""
    if miss.graph not in program.graphs:
        return miss
    nodes = {name: node for node in program.graphs[miss.graph].graph.node for name in (*node.output, node.name) if name}
    found = (nodes[name] for name in (miss.culprit, miss.anchor) if name in nodes)
    return replace(miss, module=next(filter(None, map(module_of, found)), ""))
