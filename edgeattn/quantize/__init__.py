"""Quantization schemes: one scheme, one file, one ``SCHEME``.

A scheme takes a rewritten FP32 Program and gives one whose graphs say, in standard operators, which values are
stored in fewer bits. Where attention lies comes from the recogniser; where the engine needs help comes from the
engine's own ``QdqDialect``; nothing here knows an engine by name.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from edgeattn import registry
from edgeattn.errors import UnknownName, Unsupported, UsageError
from edgeattn.program import Case, Opener, Program, QdqDialect, StageRecord
from edgeattn.progress import Listener, silent
from edgeattn.quantize._evidence import Watched
from edgeattn.quantize._policy import Policy, attention_policy, refuse_unmatched
from edgeattn.quantize._source import assert_float32
from edgeattn.standard import assert_standard

__all__ = [
    "GATE_POLICIES",
    "RANGES",
    "Budget",
    "Policy",
    "Quantized",
    "Scheme",
    "Settings",
    "attention_policy",
    "find",
    "names",
    "quantize",
]

GATE_POLICIES = ("float", "int8")  # ``auto`` is settled where there is an engine to measure in: edgeattn.gating
RANGES = ("minmax", "percentile", "entropy", "mse")
Quantized: TypeAlias = tuple[Program, Mapping[str, Any]]
"""The quantized graphs, and notes for the record."""


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
        gate: how attention gates are treated; ``float`` keeps pool, MLP and sigmoid in FP32, ``int8`` quantizes
            their products, and what of them is wide.
        keep: patterns (``*`` matches anything) of node or module names that stay in float.
        qdq: what the engine needs; the default suits all.
        ranges: how a value's range follows from its calibration data; ``minmax`` takes the largest magnitude,
            ``percentile``, ``entropy`` and ``mse`` clip what is rare.
        budget: what a scheme that searches may lose.
    """

    gate: str = "float"
    keep: tuple[str, ...] = ()
    qdq: QdqDialect = field(default_factory=QdqDialect)
    ranges: str = "minmax"
    budget: Budget = field(default_factory=Budget)


class Scheme(Protocol):
    """What a scheme file offers; a scheme derives from it.

    Attributes:
        name: as users type it.
        precision: what an engine that runs the result is asked for: ``int8``, ``fp16``, ``bf16``, or ``fp32`` where
            only storage shrinks.
        limits: the parity limits the result is held to (:meth:`edgeattn.harness.limits.Limits.of`).
        calibrated: needs real data to set its ranges.
        also: further precisions that its result is worth running in.
        targets: the engines that its result runs in; empty for all.
        timed_as: the scheme whose graphs are timed in its place, for one that takes long; empty for its own.
    """

    name: str
    precision: str
    limits: str
    calibrated: bool
    also: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    timed_as: str = ""

    def quantize(self, program: Program, opener: Opener, data: Iterable[Case], settings: Settings) -> Quantized:
        """The quantized graphs, and notes for the record."""
        ...


@dataclass(frozen=True)
class Drop:
    """What a candidate loses of a task's metric on samples that neither calibrate nor test.

    Attributes:
        share: of the float program's figure, positive where the candidate is worse.
        reference, figure: the metric of the float program and of the candidate.
        ci95: 95 % interval of ``reference - figure``, paired; the sign such that positive is worse.
        metric: its name. samples: how many.
    """

    share: float
    reference: float
    figure: float
    ci95: tuple[float, float]
    metric: str
    samples: int


@dataclass(frozen=True)
class Judge:
    """Where and by what a scheme that searches has its candidates judged.

    Attributes:
        target: the engine that ``opener`` opens, with its version.
        opener: opens a candidate as it will run.
        task: the data that ``drop`` measures on, in words; empty without it.
        drop: what a candidate loses of the task's metric.
        listen: hears ``(what is going on, done, total)``.
    """

    target: str
    opener: Opener
    task: str = ""
    drop: Callable[[Program], Drop] | None = None
    listen: Listener = silent


@runtime_checkable
class Searching(Protocol):
    """A scheme that looks for graphs within a budget."""

    def search(
        self, program: Program, opener: Opener, data: Iterable[Case], settings: Settings, judge: Judge
    ) -> Quantized:
        """As :meth:`Scheme.quantize`, with candidates judged by ``judge``.

        Raises:
            BudgetMissed: nothing found is within the budget. OutOfResources: the time is up before anything is.
        """
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


def assert_runs_in(scheme: str, engine: str) -> None:
    """Refuse an engine that does not take what a scheme makes, before any work.

    Raises:
        UnknownName: no such scheme. Unsupported: the scheme's result runs elsewhere.
    """
    targets = find(scheme).targets
    if targets and engine not in targets:
        raise Unsupported(
            f"scheme '{scheme}' makes a program for {', '.join(targets)} alone",
            where=engine,
            hint="take int8-static, which is the portable one",
        )


def quantizes_gates(scheme: Scheme) -> bool:
    """Whether a scheme stores activations in INT8, so that it matters how gates are treated."""
    return scheme.calibrated and scheme.precision == "int8"


def forms(scheme: str) -> tuple[str, ...]:
    """Rewrite rules that pay in this scheme whatever the engine, though in FP32 each is measured first.

    INT8 layers of a decoder step are so short that every launch counts: a recurrent cell is one Gemm of [x; h]. Where
    weights alone are INT8, it is what lets engines multiply a cell's packed.

    Raises:
        UnknownName: no such scheme.
    """
    return ("lower_recurrent_cell", "merge_summed_products") if find(scheme).limits == "int8" else ()


def quantize(
    program: Program,
    scheme: str,
    opener: Opener,
    data: Iterable[Case],
    settings: Settings | None = None,
    judge: Judge | None = None,
) -> Program:
    """Quantize a program.

    Args:
        program: rewritten, in float32; not edited.
        scheme: a name of :func:`names`.
        opener: opens a Program for calibration runs.
        data: calibration samples, real ones: a Case's feeds (and forced tokens for wired programs).
        settings: gate policy, patterns to keep, what the engine needs.
        judge: where a scheme that searches tries its candidates; by default where it calibrates.

    Raises:
        UnknownName: no such scheme. UsageError: unknown gate policy, a keep pattern that matches nothing, or a budget
            for a scheme that does not search. BadInput: no calibration sample, or samples with NaN.
        Unsupported: a vendor operator in the result, or a program that is quantized already or not in float32.
            BudgetMissed, OutOfResources: see :class:`Searching`.
    """
    settings = settings or Settings()
    chosen = find(scheme)
    if settings.gate not in GATE_POLICIES:
        raise UsageError(f"unknown gate policy '{settings.gate}'", hint=f"known: {', '.join(GATE_POLICIES)}")
    if settings.ranges not in RANGES:
        raise UsageError(f"unknown range method '{settings.ranges}'", hint=f"known: {', '.join(RANGES)}")
    if settings.gate != "float" and not quantizes_gates(chosen):
        raise UsageError(
            f"scheme '{scheme}' treats gates as all else", hint="leave the gate policy out, or take int8-static"
        )
    refuse_unmatched(list(program.graphs.values()), settings.keep)
    if settings.budget != Budget() and not isinstance(chosen, Searching):
        hint = "leave max_drop, sqnr and minutes out, or take scheme mixed"
        raise UsageError(f"scheme '{scheme}' does not search, so it keeps no budget", hint=hint)
    assert_float32(program)
    started = time.perf_counter()
    watched = Watched(data)
    if isinstance(chosen, Searching):
        judge = judge or Judge("the engine that calibrates", opener)
        quantized, notes = chosen.search(program, opener, watched, settings, judge)
    else:
        quantized, notes = chosen.quantize(program, opener, watched, settings)
    if watched.samples:
        notes = {**notes, "calibration": watched.notes(notes.get("calibration", {}), program.reference)}
    record = StageRecord("quantize", time.perf_counter() - started, {"scheme": scheme, **asdict(settings), **notes})
    result = program.after(record, graphs=quantized.graphs, ir=quantized.ir)
    assert_standard(result, "quantize")
    return result
