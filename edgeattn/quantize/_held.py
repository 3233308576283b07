"""Samples held out of the calibration data, and how much of the signal a candidate keeps on them.

A budget is not judged on the data that set the ranges. Every fourth calibration case is held out, at most 32 samples
and 64 MiB of them; the float program answers them once and is what candidates are compared with. A program that decodes
is forced to the tokens that the float program decoded, so that each step is compared with the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from edgeattn import decode
from edgeattn.errors import UsageError
from edgeattn.program import Case, Program, Session

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays, Wiring

SAMPLES, BYTES = 32, 64 << 20
_EVERY = 4
_CAP_DB = 200.0  # equal to the last bit; as the parity report counts
_NO_SIGNAL = 1e-6  # of the output's usual RMS: there is nothing to compare the noise with


@dataclass(frozen=True)
class Signal:
    """What a candidate keeps.

    Attributes:
        sqnr_db: the least 20·log10(‖x‖/‖x−y‖) of any output in any held-out case. output: which output that is.
        noise: the largest ‖x−y‖²/‖x‖² of any output over all held-out cases together: what layers add up to.
    """

    sqnr_db: float
    output: str
    noise: float


@dataclass
class Held:
    """The held-out cases, with the float program's answers once :meth:`answer` has been called.

    Attributes:
        apart: False where there was too little data to hold any out: the first case then serves twice.
    """

    cases: list[Case] = field(default_factory=list)
    apart: bool = True

    def split(self, data: Iterable[Case]) -> Iterator[Case]:
        """The cases to calibrate on; every fourth stays here while there is room."""
        first: Case | None = None
        for number, case in enumerate(data):
            first = first or case
            if number % _EVERY == _EVERY - 1 and self._has_room(case):
                self.cases.append(case)
            else:
                yield case
        if not self.cases and first is not None:
            self.cases, self.apart = [first], False

    def _has_room(self, case: Case) -> bool:
        return self.samples < SAMPLES and sum(map(_bytes, (*self.cases, case))) <= BYTES

    @property
    def samples(self) -> int:
        """How many samples are held, counted along axis 0."""
        return sum(len(next(iter(case.feeds.values()))) for case in self.cases)

    def answer(self, program: Program, sessions: Mapping[str, Session]) -> None:
        """Let the float program answer every case.

        Raises:
            UsageError: it has no floating-point output to measure a signal on.
        """
        self.cases = [_answered(case, program.wiring, sessions) for case in self.cases]
        if not all(case.outputs for case in self.cases):
            raise UsageError("the model has no floating-point output", hint="give a task and --max-drop instead")

    def signal(self, wiring: Wiring | None, sessions: Mapping[str, Session]) -> Signal:
        """How far a candidate is from the float program."""
        return compare(self.cases, lambda case: decode.run(sessions, wiring, case.feeds, case.tokens))


def compare(cases: Sequence[Case], run: Callable[[Case], Arrays]) -> Signal:
    """The signal that ``run`` keeps of each case's outputs; NaN, or an output that is not there, keeps none."""
    energies: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        given = run(case)
        for name, ref in case.outputs.items():
            energies.setdefault(name, []).append(_energies(np.asarray(ref), given.get(name)))
    worst = Signal(_CAP_DB, next(iter(energies)), 0.0)
    for name, pairs in energies.items():
        usual = sum(signal for signal, _ in pairs) / len(pairs)
        heard = [(s, n) for s, n in pairs if s > _NO_SIGNAL**2 * usual]
        level, total = min((_decibels(n / s) for s, n in heard), default=_CAP_DB), sum(s for s, _ in heard)
        noise = max(worst.noise, min(sum(n for _, n in heard) / total if total else 0.0, 1e20))
        worst = Signal(level, name, noise) if level < worst.sqnr_db else replace(worst, noise=noise)
    return worst


def _energies(ref: Array, out: Array | None) -> tuple[float, float]:
    """Mean squares of the reference and of the error, where the reference is finite."""
    finite = np.isfinite(ref)
    x = ref[finite].astype(np.float64)
    signal = float(np.mean(np.square(x))) if x.size else 0.0
    if out is None or out.shape != ref.shape:
        return signal, float("inf")
    error = out[finite].astype(np.float64) - x
    noise = float(np.mean(np.square(error))) if x.size else 0.0
    return signal, noise if np.isfinite(noise) else float("inf")


def _decibels(noise: float) -> float:
    return _CAP_DB if noise <= 0 else float(np.clip(-10 * np.log10(noise), -_CAP_DB, _CAP_DB)) + 0.0  # no -0


def _answered(case: Case, wiring: Wiring | None, sessions: Mapping[str, Session]) -> Case:
    if wiring is not None and case.tokens is None:
        tokens = decode.run(sessions, wiring, case.feeds)["tokens"]
        start = np.full((len(tokens), 1), wiring.stop.start, np.int64)
        fed = tokens if wiring.stop.first else np.concatenate([start, tokens], axis=1)
        case = replace(case, tokens=fed[:, :-1] if fed.shape[1] > 1 else fed)
    outputs = decode.run(sessions, wiring, case.feeds, case.tokens)
    return replace(case, outputs={k: v for k, v in outputs.items() if np.asarray(v).dtype.kind == "f" and v.size})


def _bytes(case: Case) -> int:
    return sum(value.nbytes for value in case.feeds.values())
