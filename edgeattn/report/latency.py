"""The latency sections: milliseconds, ratios of rounds, and what settled them; harness/latency.py measures them."""

from __future__ import annotations

from edgeattn.report.values import Figure, Interval, SectionVerdict, Value

ITSELF = "the engine itself"


class Latencies(Value):
    """Milliseconds per unit of work; a percentile is None where ``n`` is too small to state it at 99 % confidence."""

    p50_ms: Figure
    p90_ms: Figure = None
    p95_ms: Figure = None
    p99_ms: Figure = None
    min_ms: Figure = None
    n: int
    inner: int = 1


class Ratio(Value):
    """Median of per-round ratios with its 95 % interval."""

    median: Figure
    ci95: Interval


class Attempt(Value):
    """One attempt to settle a measurement; all are kept, also those that did not."""

    rounds: int
    speedup: Ratio
    aa_control: Ratio
    settled: bool
    why: str = ""


class LatencyReport(Value):
    """Reference and engine timed in the same rounds.

    Attributes:
        speedup: reference ÷ engine, above 1 is faster. aa_control: engine ÷ engine, the noise floor of this very run.
        baseline: what the reference is: PyTorch, or on a board another kit or the engine itself.
        rounds, threads, seed: how it was measured. unit: what one call is, e.g. ``inference`` or ``decode step``.
        verdict: ``pass`` when the measurement settled (see harness/latency.py), else ``inconclusive``.
    """

    reference: Latencies
    engine: Latencies
    speedup: Ratio
    aa_control: Ratio
    baseline: str = "PyTorch"
    rounds: int
    threads: int
    unit: str = "inference"
    warmup_calls: int = 0
    seed: int = 0
    attempts: tuple[Attempt, ...] = ()
    verdict: SectionVerdict
    why: str = ""

    @property
    def alone(self) -> bool:
        """Whether there was nothing to compare the engine with but itself."""
        return self.baseline == ITSELF


class Contender(Value):
    """One call of a comparison; the baseline has no speedup and no control of its own."""

    name: str
    latency: Latencies
    speedup: Ratio | None = None
    aa_control: Ratio | None = None


class Comparison(Value):
    """Several calls timed in the same rounds: the baseline first, ``speedup`` of each other is baseline ÷ it.

    ``aa_control`` is the one furthest from settled; ``verdict`` is ``pass`` when every control settled.
    """

    entries: tuple[Contender, ...]
    aa_control: Ratio
    rounds: int
    threads: int
    unit: str = "inference"
    seed: int = 0
    verdict: SectionVerdict
    why: str = ""
