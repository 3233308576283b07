"""What calibration data looked like: its fingerprint, its statistics, and what about it deserves a warning."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.errors import BadInput, printable
from edgeattn.program import Case, Reference

if TYPE_CHECKING:
    from edgeattn.program import Array

FEW = 32
_UNSETTLED = 0.5  # share of ranges that may still grow late: maxima do, 0.09 of them on 300 photographs, which is fine
_UNLIKE = 3.0  # standard deviations that differ by this factor do not come from the same preprocessing
_REMEMBERED = 4096  # samples that a repetition is looked for in


@dataclass
class Statistics:
    """Moments of one float input, streamed.

    Attributes:
        count, total, squares: number, sum and sum of squares of the elements.
        low, high: the ends. channels: sums by channel where an image has three, else None.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    channels: Array | None = None

    def add(self, values: Array) -> None:
        """Take in a batch ``(B, …)``."""
        exact = values.astype(np.float64)
        self.count += exact.size
        self.total += float(exact.sum())
        self.squares += float(np.square(exact).sum())
        self.low, self.high = min(self.low, float(exact.min())), max(self.high, float(exact.max()))
        axis = next((a for a in (1, 3) if exact.ndim == 4 and exact.shape[a] == 3), None)
        if axis is not None:
            sums = exact.sum(axis=tuple(a for a in range(4) if a != axis))
            self.channels = sums if self.channels is None else self.channels + sums

    @property
    def mean(self) -> float:
        """Of all elements."""
        return self.total / self.count

    @property
    def std(self) -> float:
        """Of all elements, about their mean."""
        return float(np.sqrt(max(self.squares / self.count - self.mean**2, 0.0)))

    def summary(self) -> dict[str, Any]:
        """For the record."""
        figures: dict[str, Any] = {"min": self.low, "max": self.high, "mean": self.mean, "std": self.std}
        if self.channels is not None:
            figures["channels"] = list(self.channels * 3 / self.count)
        return {k: [round(x, 6) for x in v] if isinstance(v, list) else round(v, 6) for k, v in figures.items()}

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g} (mean {self.mean:.3g}, deviation {self.std:.3g})"


@dataclass
class Watched:
    """Calibration data on its way through: iterates the cases of ``data``, and knows afterwards what they were.

    Raises:
        BadInput: while iterating, a sample that is not finite, by its number.
    """

    data: Iterable[Case]
    samples: int = 0
    inputs: dict[str, Statistics] = field(default_factory=dict)
    constant: list[int] = field(default_factory=list)
    repeated: int = 0
    _sum: int = 0
    _known: set[bytes] = field(default_factory=set)

    def __iter__(self) -> Iterator[Case]:
        first = not self.samples  # a scheme may go through a list of cases again
        for case in self.data:
            if first:
                self._take(case)
            yield case

    def _take(self, case: Case) -> None:
        floats = {name: value for name, value in case.feeds.items() if value.dtype.kind == "f" and value.size}
        for name, value in floats.items():
            self._refuse_nonfinite(name, value)
            self.inputs.setdefault(name, Statistics()).add(value)
        for i in range(case.samples):
            digest = _digest(case, i)
            self._sum = (self._sum + int.from_bytes(digest, "big")) % (1 << 256)
            self.repeated += digest in self._known
            if len(self._known) < _REMEMBERED:
                self._known.add(digest)
            rows = [value[i] for value in floats.values() if value.ndim and value[i].size > 1]
            if len(self.constant) < _REMEMBERED and rows and all(row.min() == row.max() for row in rows):
                self.constant.append(self.samples)
            self.samples += 1

    def _refuse_nonfinite(self, name: str, value: Array) -> None:
        if not np.isfinite(value).all():
            rows = np.atleast_1d(value)
            bad = ~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
            what = f"calibration sample {self.samples + int(np.argmax(bad))} is not finite in '{printable(name, 80)}'"
            raise BadInput(what, hint="remove NaN and Inf")

    @property
    def fingerprint(self) -> str:
        """The sum modulo 2^256 of the SHA-256 of every sample: the same in whatever order and batches they came."""
        return f"{self._sum:064x}"

    def notes(self, found: Mapping[str, Any], reference: Reference | None) -> dict[str, Any]:
        """What the record says of the data.

        Args:
            found: what calibration says of the ranges. reference: real cases to compare the data with, if any.
        """
        return {
            **found,
            "fingerprint": self.fingerprint,
            "inputs": {name: statistics.summary() for name, statistics in self.inputs.items()},
            "warnings": [*self._about_samples(), *_about_ranges(found), *self._unlike(reference)],
        }

    def _about_samples(self) -> Iterator[str]:
        if self.samples < FEW:
            many = "a single sample" if self.samples == 1 else f"{self.samples} samples"
            yield f"calibrated on {many}, which is few: give {FEW} and more"
        if self.repeated:
            yield f"{self.repeated} of {self.samples} calibration samples repeat another"
        if self.constant:
            which = f"sample {self.constant[0]}" + (" is the first" if len(self.constant) > 1 else "")
            yield f"{len(self.constant)} of {self.samples} calibration samples are constant: {which}"

    def _unlike(self, reference: Reference | None) -> Iterator[str]:
        cases = [c for c in reference.cases if c.name.startswith("real")] if reference else []
        for name, calibrated in self.inputs.items():
            judged = Statistics()
            for case in cases:
                if name in case.feeds and case.feeds[name].size:
                    judged.add(case.feeds[name])
            why = unlike(calibrated, judged) if judged.count else ""
            if why:
                yield (
                    f"'{printable(name, 80)}' looks differently preprocessed for calibration than for evaluation "
                    f"({why}): {calibrated} against {judged}"
                )


def unlike(calibrated: Statistics, judged: Statistics) -> str:
    """Why two sets of inputs cannot have gone through the same preprocessing; empty where they may have."""
    wide, narrow = max(calibrated.std, judged.std), min(calibrated.std, judged.std)
    if narrow and wide / narrow > _UNLIKE:
        return "as 0 to 255 is against 0 to 1" if 100 < wide / narrow < 600 else "another scale"
    if abs(calibrated.mean - judged.mean) > 2 * wide:
        return "another mean"
    if calibrated.channels is None or judged.channels is None:
        return ""
    ours, theirs = (s.channels * 3 / s.count for s in (calibrated, judged) if s.channels is not None)
    apart, swapped = np.abs(ours - theirs).max(), np.abs(ours[::-1] - theirs).max()
    return "red and blue swapped" if apart > 0.3 * wide and swapped < apart / 3 else ""


def _about_ranges(found: Mapping[str, Any]) -> Iterator[str]:
    if found.get("grew", 0.0) > _UNSETTLED:
        yield (
            f"ranges have not settled: {found['grew']:.0%} of them grew by more than 5 % after the first "
            f"{found['settled_from']} samples; give more"
        )


def _digest(case: Case, i: int) -> bytes:
    sha = hashlib.sha256()
    for name, value in sorted(case.feeds.items()):
        row = np.ascontiguousarray(value[i] if value.ndim else value)
        sha.update(f"{name} {row.dtype.str} {row.shape}".encode())
        sha.update(row.tobytes())
    if case.tokens is not None:
        sha.update(np.ascontiguousarray(case.tokens[i]).tobytes())
    return sha.digest()
