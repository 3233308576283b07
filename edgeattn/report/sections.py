"""The sections of a report, each a frozen value; edgeattn.report.schema puts them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from edgeattn.report.strictjson import plain
from edgeattn.report.values import Counts, Figure, GateVerdict, Interval, Notes, SectionVerdict, Value, worst


def _by_name(value: Any) -> Any:
    return dict(sorted(value.items())) if isinstance(value, Mapping) else value


class StageReport(Value):
    """What one stage of the pipeline did; ``notes`` is anything JSON-able."""

    name: str
    seconds: float
    cached: bool = False
    notes: Notes = Field(default_factory=dict)


class AttentionReport(Value):
    """How far the engine attends where PyTorch does, over all maps of one real sample.

    Attributes:
        kind: ``spatial`` (masks over an image) or ``alignment`` (target by source). maps: how many were compared.
        correlation: Pearson's, of the worst map. worst: which that is.
        mean_abs, max_abs: differences of the weights, which lie in [0, 1].
        same_focus: share of maps (of an alignment: of target positions) whose largest weight is at the same place.
    """

    kind: Literal["spatial", "alignment"]
    maps: int
    correlation: Figure
    worst: str
    mean_abs: Figure
    max_abs: Figure
    same_focus: Figure


class MeasuredChoice(Value):
    """What a paired measurement on the target said about a rule: ``speedup`` is the median of before / after."""

    keep: bool
    target: str
    speedup: Figure = None
    ci95: tuple[Figure, Figure] = (None, None)
    why: str = ""


class RewriteCount(Value):
    """How often a rule fired, the nodes of the program before and after, and the error it introduced.

    Attributes:
        where: the modules whose nodes it changed, as far as the graph tells them.
        undone: why its result was thrown away; empty if it stands.
        measured: for a rule that stays only where it is faster, the measurement.
        note: the choice in words, or why the rule was left alone.
        repro: name of the directory with an example of a rule that was undone; empty if none was left.
    """

    rule: str
    count: int
    nodes_before: int
    nodes_after: int
    max_abs: Figure = None
    where: tuple[str, ...] = ()
    undone: str = ""
    measured: MeasuredChoice | None = None
    note: str = ""
    repro: str = ""


class Operators(Value):
    """Operator domains (``""`` is ``ai.onnx``) and how many nodes of each type are left."""

    domains: tuple[str, ...] = ()
    histogram: Counts = Field(default_factory=dict)


class OutputParity(Value):
    """One output against the oracle, worst over all cases.

    Attributes:
        max_abs, mean_abs: absolute error over the elements that are finite on both sides.
        sqnr_db: 20·log10(‖x‖/‖x−y‖), capped at 200; None where the reference carries no signal.
        cosine: similarity of the flattened outputs; None where it means nothing (see harness/parity.py).
        nonfinite: elements whose NaN or ±Inf differ between the two.
        limit: what was asked, in words. observed: what was held against it, in words.
        why: what broke it, or why a figure was not judged.
        worst_case: the case furthest past its limit, or nearest to it.
    """

    max_abs: Figure
    mean_abs: Figure
    sqnr_db: Figure = None
    cosine: Figure = None
    nonfinite: int = 0
    limit: str
    observed: str = ""
    verdict: SectionVerdict
    why: str = ""
    worst_case: str = ""


class StageParity(Value):
    """Every output after one stage."""

    stage: str
    case_count: int
    outputs: dict[str, OutputParity]

    @property
    def verdict(self) -> SectionVerdict:
        """The worst verdict of the outputs; ``n/a`` without any."""
        return worst(o.verdict for o in self.outputs.values())


class ParityReport(Value):
    """``outputs`` are the last stage's: what the user gets. ``stages`` has one entry per judged stage, in order."""

    outputs: dict[str, OutputParity] = Field(default_factory=dict)
    stages: tuple[StageParity, ...] = ()

    @classmethod
    def of(cls, stages: Iterable[StageParity]) -> ParityReport:
        """The section from its stages, in order."""
        known = tuple(stages)
        return cls(outputs=known[-1].outputs if known else {}, stages=known)


class Pair(Value):
    """One figure of PyTorch and of the engine."""

    reference: Figure
    engine: Figure


class TaskReport(Value):
    """The task metric of PyTorch and of the engine on the same samples.

    Attributes:
        unit: ``share`` (figures in [0, 1]), ``dB``, or nothing. higher_is_better: which way is worse.
        reference, engine: the metric. drop: by how much the engine's is worse, absolute.
        ci95: 95 % interval of the drop (paired). agreement: share of samples with identical predictions, None where
            predictions cannot be identical or not.
        also: further figures beside the metric, by name.
        limit: the largest drop allowed, None when nobody asked.
    """

    name: str
    metric: str
    unit: str = "share"
    higher_is_better: bool = True
    samples: int
    reference: Figure
    engine: Figure
    drop: Figure
    ci95: Interval
    agreement: Figure = None
    also: Mapping[str, Pair] = {}
    limit: Figure = None
    verdict: SectionVerdict
    why: str = ""


class SizeReport(Value):
    """Bytes on disk: the reference graph with its weights, and every file the engine needs."""

    reference_bytes: int
    engine_bytes: int

    @property
    def ratio(self) -> float | None:
        """engine ÷ reference; None for an empty reference."""
        return self.engine_bytes / self.reference_bytes if self.reference_bytes else None


class BuildReport(Value):
    """What building the engine took; ``peak_bytes`` more memory than before, None where the engine does not say."""

    seconds: Figure
    peak_bytes: int | None = None


class Environment(Value):
    """The machine and the packages behind the figures.

    Attributes:
        cpu: model name. isa: instruction sets that matter to INT8. cores: physical cores this process may use.
        logical: hardware threads it may use. threads: threads given to the engines, 0 if unknown.
        load: 1-minute load average when measured, None where the system has none.
    """

    cpu: str
    isa: tuple[str, ...] = ()
    cores: int
    logical: int = 0
    threads: int = 0
    versions: Annotated[dict[str, str], BeforeValidator(_by_name)] = Field(default_factory=dict)
    load: Figure = None
    system: str = ""


class GateReport(Value):
    """One gate: what was asked, what was seen.

    Attributes:
        limit, observed: numbers or words.
        unit: of a task gate's numbers, as in the task section.
    """

    name: str
    unit: str = "share"
    limit: float | bool | str | None = None
    observed: Annotated[float | bool | str | None, BeforeValidator(plain)] = None
    why: str = ""
    verdict: GateVerdict


class Execution(Value):
    """Whether the engine ran on the machine that built it; ``why`` not, where it did not."""

    ran: bool = True
    why: str = ""


class Target(Value):
    """Engine and device asked for, and those that ran."""

    requested: str
    effective: str


class LayerPrecision(Value):
    """A layer, what it runs in, and its share of all multiply-accumulates."""

    layer: str
    precision: str
    share: Figure = None


class Precision(Value):
    """Precision asked for and the one the engine reports.

    Attributes:
        int8_share: share of the multiply-accumulates that run in INT8; None if not read back.
        share: of those that run in what was asked for (of fp32: in nothing less). macs_in: their number by precision.
        elsewhere: the largest layers that run in something else.
        detail: what the engine reports, per graph.
    """

    requested: str
    effective: str
    int8_share: Figure = None
    share: Figure = None
    macs_in: Counts = Field(default_factory=dict)
    elsewhere: tuple[LayerPrecision, ...] = ()
    detail: Notes = Field(default_factory=dict)
