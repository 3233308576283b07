"""How far a program moves when its inputs move by one unit in the last place: no rewrite can be held to less.

Where gates saturate one after another, as in a deep network on inputs far from any it was made for, float32 does not
determine the answer: the graph as it came differs from itself by more than the stage allows. Such a case tells nothing
about a rule, and a rule must not be blamed for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn import decode

if TYPE_CHECKING:
    from edgeattn.program import Case, Opener, Program

DRAWS = 3
FACTOR = 3.0
"""A result may be this often as far from the source's as the source is from itself: few draws see a part of it."""


def spread(program: Program, opener: Opener, case: Case) -> dict[str, float]:
    """Largest absolute change of each floating-point output over a few seeded nudges of the case's inputs.

    Args:
        program: the source. opener: opens it in the engine that judges.
        case: inputs; only floating-point ones are nudged.
    """
    sessions, rng = opener(program), np.random.default_rng(0)
    answer = decode.run(sessions, program.wiring, case.feeds, case.tokens)
    found: dict[str, float] = {}
    for _ in range(DRAWS):
        feeds = {name: _nudged(value, rng) for name, value in case.feeds.items()}
        moved = decode.run(sessions, program.wiring, feeds, case.tokens)
        for name, value in answer.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.shape == moved[name].shape:
                change = np.abs(moved[name].astype(np.float64) - value.astype(np.float64))
                found[name] = max(found.get(name, 0.0), float(np.max(change, initial=0.0, where=np.isfinite(change))))
    return found


def _nudged(value: Any, rng: np.random.Generator) -> Any:
    """Every element up, down or left alone by one unit in the last place."""
    if value.dtype.kind != "f":
        return value
    steps = rng.integers(-1, 2, value.shape).astype(value.dtype)
    return np.asarray(value * (1 + np.finfo(value.dtype).eps * steps), value.dtype)
