"""typed_operators: an operator that the engine has, in types that it has, and not the one with the other.

Read from the measured tables alone: which ``input>output`` types of an operator no graph of it was taken with.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View, types_of


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Nodes whose types the engine refused when it was asked."""
    engine = target.engine
    for node in view.nodes:
        types = types_of(view, node)
        if node.standard and types and types in engine.refused_types.value.get(node.op, ()):
            went, _, came = types.upper().partition(">")
            reason = f"{node.op} from {went} to {came}, which {engine.title} has no implementation of"
            hint = "cast to FLOAT or INT64 before it and back behind it"
            yield Found(node.name, reason, hint, "", engine.refused_types.source, node.module)


CHECK = find
