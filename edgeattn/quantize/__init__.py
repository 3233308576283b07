"""Quantization schemes: one scheme, one file, one ``SCHEME``.

A scheme takes a rewritten FP32 Program and gives one whose graphs say, in standard operators, which values are
stored in fewer bits. Where attention lies comes from the recogniser; where the engine needs help comes from the
engine's own ``QdqDialect``; nothing here knows an engine by name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from edgeattn import registry
from edgeattn.errors import UnknownName, UsageError
from edgeattn.program import Case, Program, QdqDialect, Session, StageRecord
from edgeattn.quantize._source import assert_float32
from edgeattn.standard import assert_standard

if TYPE_CHECKING:
    Opener = Callable[[Program], Mapping[str, Session]]

GATE_POLICIES = ("float",)
RANGES = ("minmax",)


@dataclass(frozen=True)
class Budget:
    """What a scheme that searches may lose, and how long it may look.

    Attributes:
        max_drop: share of the task's metric that may be lost, such as 0.01.
        sqnr: what every output must keep on the calibration data, in dB.
        minutes: wall-clock limit of the search.
    """

    max_drop: float | None = None
    sqnr: float | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Settings:
    """What a scheme is told.

    Attributes:
        gate: how attention gates are treated; ``float`` keeps pool, MLP and sigmoid in FP32.
        keep: patterns (``*`` matches anything) of node or module names that stay in float.
        qdq: what the engine needs; the default suits all.
        ranges: how a value's range follows from its calibration data; ``minmax`` takes the largest magnitude.
        budget: what a scheme that searches may lose.
    """

    gate: str = "float"
    keep: tuple[str, ...] = ()
    qdq: QdqDialect = field(default_factory=QdqDialect)
    ranges: str = "minmax"
    budget: Budget = field(default_factory=Budget)


class Scheme(Protocol):
    """What a scheme file offers.

    Attributes:
        name: as users type it.
        precision: what an engine that runs the result is asked for: ``int8``, ``fp16``, ``bf16``, or ``fp32`` where
            only storage shrinks.
        limits: the parity limits the result is held to (:meth:`edgeattn.harness.limits.Limits.of`).
        calibrated: needs real data to set its ranges.

    A scheme whose result is worth running in other precisions too names them in ``also``.
    """

    name: str
    precision: str
    limits: str
    calibrated: bool

    def quantize(
        self, program: Program, opener: Opener, data: Iterable[Case], settings: Settings
    ) -> tuple[Program, Mapping[str, Any]]:
        """The quantized graphs, and notes for the record."""
        ...


def names() -> list[str]:
    """Scheme names as users type them."""
    return [stem.replace("_", "-") for stem in registry.names("quantize")]


def find(scheme: str) -> Scheme:
    """A scheme by the name users type.

    Raises:
        UnknownName: no such scheme, with the nearest ones.
    """
    if scheme not in names():
        raise UnknownName("scheme", scheme, names())
    found: Scheme = registry.get("quantize", scheme.replace("-", "_"))
    return found


def quantize(
    program: Program, scheme: str, opener: Opener, data: Iterable[Case], settings: Settings | None = None
) -> Program:
    """Quantize a program.

    Args:
        program: rewritten, in float32; not edited.
        scheme: a name of :func:`names`.
        opener: opens a Program for calibration runs.
        data: calibration samples, real ones: a Case's feeds (and forced tokens for wired programs).
        settings: gate policy, patterns to keep, what the engine needs.

    Raises:
        UnknownName: no such scheme. UsageError: unknown gate policy, or a keep pattern that matches nothing.
        BadInput: no calibration sample, or samples with NaN. Unsupported: a vendor operator in the result, or a program
            that is quantized already or not in float32.
    """
    settings = settings or Settings()
    chosen = find(scheme)
    if settings.gate not in GATE_POLICIES:
        raise UsageError(f"unknown gate policy '{settings.gate}'", hint=f"known: {', '.join(GATE_POLICIES)}")
    if settings.ranges not in RANGES:
        raise UsageError(f"unknown range method '{settings.ranges}'", hint=f"known: {', '.join(RANGES)}")
    assert_float32(program)
    started = time.perf_counter()
    quantized, notes = chosen.quantize(program, opener, data, settings)
    record = StageRecord("quantize", time.perf_counter() - started, {"scheme": scheme, **asdict(settings), **notes})
    result = program.after(record, graphs=quantized.graphs)
    assert_standard(result, "quantize")
    return result
