"""The shapes that each graph of a program is fed: by its cases, by a user's word, and by the other graphs.

What one graph hands to another has no name that a user could give a size to, so it is found by running the program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from edgeattn import backends, decode, graphs, profile

if TYPE_CHECKING:
    from edgeattn.profile import Bucket
    from edgeattn.program import Array, Arrays, Case, Program, Session, TensorSpec

Shapes: TypeAlias = dict[str, list[int]]


def profiles(program: Program, buckets: Sequence[Bucket] = ()) -> dict[str, list[dict[str, Shapes]]]:
    """Least, typical and largest shape of every dynamic input of every graph, once for each bucket.

    Args:
        program: its reference says which shapes there are; those that one graph hands to another are found by running.
        buckets: sizes of dimensions by name, as asked for; they hold for the dimensions of the program's own inputs.
    """
    dynamic = {
        name: [spec for spec in graphs.input_specs(model) if any(isinstance(d, str) for d in spec.shape)]
        for name, model in program.graphs.items()
    }
    if program.reference is None or not any(dynamic.values()):
        return {name: [] for name in dynamic}
    own = {dim for spec in graphs.program_inputs(program) for dim in profile.dimensions(spec)}
    seen = _shapes(program, [program.reference.typical, *program.reference.cases])
    asked = [{name: span for name, span in bucket.items() if name in own} for bucket in buckets or [{}]]
    return {
        name: [{spec.name: _range(spec, seen[name][spec.name], bucket) for spec in specs} for bucket in asked]
        for name, specs in dynamic.items()
    }


def _range(spec: TensorSpec, shapes: Sequence[tuple[int, ...]], bucket: Bucket) -> Shapes:
    """The shapes that were seen, but where a bucket says otherwise."""
    table = np.array(shapes, int).reshape(len(shapes), -1)
    spans = np.stack([table.min(0), table[0], table.max(0)])
    for axis, dim in enumerate(profile.dimensions(spec)):
        if dim in bucket:
            spans[:, axis] = bucket[str(dim)]
    least, typical, largest = spans.tolist()
    return {"min": least, "opt": typical, "max": largest}


def _shapes(program: Program, cases: Sequence[Case]) -> dict[str, dict[str, list[tuple[int, ...]]]]:
    """Every shape that each graph's inputs have, in order; those within a wired program are found by running it."""
    if program.wiring is None:
        (name,) = program.graphs
        return {name: {given: [case.feeds[given].shape for case in cases] for given in cases[0].feeds}}
    watched = {name: _Watched(session) for name, session in backends.oracle(program).items()}
    step = watched[program.wiring.loop]
    for case in cases:
        before = {name: len(shapes) for name, shapes in step.seen.items()}
        decode.run(watched, program.wiring, case.feeds, case.tokens)
        for name, shapes in step.seen.items():
            shapes += _at_the_end(shapes[before.get(name, 0) :], program.wiring.stop.max_steps)
    return {name: session.seen for name, session in watched.items()}


def _at_the_end(shapes: Sequence[tuple[int, ...]], steps: int) -> list[tuple[int, ...]]:
    """The shape that a state which grows has after the longest sequence; nothing for one that stays as it is."""
    first, last = np.array(shapes[0]), np.array(shapes[-1])
    grown = (last - first) // max(len(shapes) - 1, 1)
    return [tuple(int(size) for size in first + grown * steps)] if grown.any() else []


class _Watched:
    """A session that remembers the shapes of what it was fed."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.inputs, self.outputs = session.inputs, session.outputs
        self.seen: dict[str, list[tuple[int, ...]]] = {}

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """As the session does."""
        for name, value in feeds.items():
            self.seen.setdefault(name, []).append(np.shape(value))
        return self._session.run(feeds)
