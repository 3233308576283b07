"""Calibration: the range each value takes on real data. Streamed: memory does not grow with the number of samples.

The largest and smallest element and the sum of magnitudes are computed in the graph, so the largest magnitude is
exact. Range methods that need a distribution count a part of every tensor in histograms besides (:mod:`_taps`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn import decode
from edgeattn.errors import BadInput, printable
from edgeattn.graphs import GraphIndex
from edgeattn.program import Case, Opener, Program, Session, TensorSpec
from edgeattn.quantize import _ranges
from edgeattn.quantize._ranges import Histogram
from edgeattn.quantize._taps import PARTS, measuring, part, taken

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array, Arrays

    Key = tuple[str, str]  # graph, value

_KNOWN = {"Sigmoid": 1.0, "HardSigmoid": 1.0}  # what they give needs no data, and a gate must reach its 1
_GREW = 1.05


@dataclass(frozen=True)
class Calibration:
    """What calibration found.

    Attributes:
        peaks: graph -> value -> the largest magnitude that keeps its own level; values never computed are absent.
        samples: how many were run.
        notes: ``method``, and how far the ranges had settled: after ``settled_from`` samples a share ``grew`` of them
            grew by more than 5 %, that of ``value`` the most, by the factor ``most`` (None from zero).
    """

    peaks: Mapping[str, Mapping[str, float]]
    samples: int
    notes: Mapping[str, Any] = field(default_factory=dict)


def calibrate(
    program: Program,
    values: Mapping[str, Mapping[str, int]],
    opener: Opener,
    data: Iterable[Case],
    method: str = "minmax",
) -> Calibration:
    """Run calibration data and find the ranges of the wanted values.

    Args:
        program: the float program.
        values: graph -> value -> levels from zero to its peak: 127, or 255 where it is stored unsigned.
        opener: opens the program with its measuring outputs.
        data: samples; their first axis counts as samples.
        method: a key of :data:`edgeattn.quantize._ranges.METHODS`.

    Raises:
        BadInput: no sample, or a non-finite activation.
    """
    known = {graph: _known(program.graphs[graph], names) for graph, names in values.items()}
    wanted = {graph: [n for n in values.get(graph, ()) if n not in known[graph]] for graph in program.graphs}
    seen = _Seen(method != "minmax")
    tapped = {graph: measuring(model, wanted[graph], seen.counting) for graph, model in program.graphs.items()}
    opened = opener(replace(program, graphs=tapped))
    own = {graph: {v.name for v in model.graph.output} for graph, model in program.graphs.items()}
    sessions = {graph: _Observer(graph, opened[graph], wanted[graph], own[graph], seen) for graph in program.graphs}
    for case in data:
        decode.run(sessions, program.wiring, case.feeds, case.tokens)
        seen.ran(case.samples)
    if not seen.samples:
        raise BadInput("no calibration sample", hint="give real data: a task, or --calib with at least one sample")

    def found(histograms: Mapping[Key, Histogram]) -> dict[Key, float]:
        return {key: _ranges.peak(method, h, values[key[0]][key[1]]) for key, h in histograms.items()}

    peaks, (at, before) = found(seen.histograms), seen.earlier()
    by_graph = {g: {**known[g], **{n: p for (of, n), p in peaks.items() if of == g}} for g in program.graphs}
    return Calibration(by_graph, seen.samples, {"method": method, **_settled(peaks, at, found(before))})


def _known(model: onnx.ModelProto, values: Iterable[str]) -> dict[str, float]:
    producer = GraphIndex(model).producer
    return {v: _KNOWN[producer[v].op_type] for v in values if v in producer and producer[v].op_type in _KNOWN}


def _settled(peaks: Mapping[Key, float], at: int, before: Mapping[Key, float]) -> dict[str, Any]:
    """How much the ranges still grew after the first ``at`` samples."""
    growth = {key: peak / before[key] if before.get(key) else np.inf for key, peak in peaks.items() if peak}
    if not at or not growth:
        return {}
    most = max(growth, key=lambda key: growth[key])
    grew = float(np.mean([factor > _GREW for factor in growth.values()]))
    factor = round(float(growth[most]), 4) if np.isfinite(growth[most]) else None
    return {"settled_from": at, "grew": round(grew, 4), "most": factor, "value": most[1]}


class _Seen:
    """What was seen so far, and as it was at the last powers of two: of n samples, at a quarter to a half."""

    def __init__(self, counting: bool) -> None:
        self.counting = counting
        self.samples = 0
        self.histograms: dict[Key, Histogram] = {}
        self._marks: list[tuple[int, dict[Key, Histogram]]] = []

    def take(self, key: Key, peak: float, some: Array | None) -> None:
        """One tensor's largest magnitude, and the elements of it to count."""
        histogram = self.histograms.setdefault(key, Histogram())
        histogram.reach(peak)
        if self.counting and some is not None:
            histogram.add(some)

    def ran(self, samples: int) -> None:
        """So many samples more are through."""
        crossed = (self.samples + samples).bit_length() > self.samples.bit_length()
        self.samples += samples
        if crossed:
            now = {key: h.copy() for key, h in self.histograms.items()}
            self._marks = [*self._marks[-2:], (self.samples, now)]

    def earlier(self) -> tuple[int, dict[Key, Histogram]]:
        """The latest state kept of at most half of the samples, and how many those were; 0 where none is."""
        return next(((at, kept) for at, kept in reversed(self._marks) if at <= self.samples / 2), (0, {}))


class _Observer:
    """A session whose wanted values are measured; the outputs that measure are hidden."""

    def __init__(self, graph: str, session: Session, wanted: Iterable[str], own: set[str], seen: _Seen) -> None:
        self._graph, self._session, self._wanted, self._seen = graph, session, list(wanted), seen
        self.inputs = session.inputs
        self.outputs: tuple[TensorSpec, ...] = tuple(s for s in session.outputs if s.name in own)

    def run(self, feeds: Arrays) -> dict[str, Array]:
        values = self._session.run(feeds)
        for name in self._wanted:
            some = feeds[name] if name in feeds else values.get(taken(name))
            low, high, total = _ends(feeds[name]) if name in feeds else (float(values[part(name, p)]) for p in PARTS)
            if not np.isfinite([low, high, total]).all():
                if total == 0:  # of no elements the least is infinity
                    continue
                which = f"(sample {self._seen.samples}, or one after it in its batch)"
                what = f"calibration gives a non-finite value in '{printable(name, 80)}' {which}"
                raise BadInput(what, hint="check the data for NaN, and what the model makes of it")
            self._seen.take((self._graph, name), max(abs(low), abs(high)), some)
        return {spec.name: values[spec.name] for spec in self.outputs}


def _ends(values: Array) -> tuple[float, float, float]:
    """The :data:`PARTS` of an array, with its largest magnitude for the sum: as finite as it is."""
    if not values.size:
        return np.inf, -np.inf, 0.0
    low, high = float(values.min()), float(values.max())
    return low, high, max(abs(low), abs(high))
