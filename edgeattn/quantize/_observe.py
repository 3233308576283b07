"""Calibration: the largest magnitude each value takes on real data, streamed, so memory does not grow with samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgeattn import decode
from edgeattn.errors import BadInput
from edgeattn.graphs import with_outputs
from edgeattn.program import Case, Program, Session, TensorSpec

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays


class _Observer:
    """A session whose tapped values are measured; those that were no outputs before are hidden again."""

    def __init__(self, session: Session, taps: set[str], own: set[str], peaks: dict[str, float]) -> None:
        self._session, self._taps, self._peaks = session, taps, peaks
        self.inputs = session.inputs
        self.outputs: tuple[TensorSpec, ...] = tuple(s for s in session.outputs if s.name in own)

    def run(self, feeds: Arrays) -> dict[str, Array]:
        values = {**feeds, **self._session.run(feeds)}
        for name in self._taps & set(values):
            peak = float(np.abs(values[name]).max(initial=0.0))
            if not np.isfinite(peak):
                raise BadInput(f"calibration gives a non-finite value in '{name}'", hint="check the data for NaN")
            self._peaks[name] = max(self._peaks.get(name, 0.0), peak)
        return {spec.name: values[spec.name] for spec in self.outputs}


def observe(
    program: Program,
    values: Mapping[str, Iterable[str]],
    opener: Callable[[Program], Mapping[str, Session]],
    data: Iterable[Case],
) -> tuple[dict[str, dict[str, float]], int]:
    """Run calibration data and record ``max |x|`` of the wanted values.

    Args:
        program: the float program.
        values: graph -> value names.
        opener: opens the tapped program.
        data: samples; their first axis counts as samples.

    Returns:
        graph -> value -> peak, and the number of samples seen.

    Raises:
        BadInput: no sample, or a non-finite activation.
    """
    wanted = {graph: set(names) for graph, names in values.items()}
    tapped = replace(program, graphs={g: with_outputs(m, sorted(wanted[g])) for g, m in program.graphs.items()})
    peaks: dict[str, dict[str, float]] = {graph: {} for graph in program.graphs}
    own = {graph: {v.name for v in model.graph.output} for graph, model in program.graphs.items()}
    sessions = {g: _Observer(session, wanted[g], own[g], peaks[g]) for g, session in opener(tapped).items()}
    samples = 0
    for case in data:
        decode.run(sessions, program.wiring, case.feeds, case.tokens)
        samples += len(next(iter(case.feeds.values())))
    if not samples:
        raise BadInput("no calibration sample", hint="give real data: a task, or --calib with at least one sample")
    return peaks, samples
