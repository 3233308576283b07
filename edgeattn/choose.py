"""Choosing by measurement: is a program faster on its target after a rule than before it?

Some rewrites help on one engine and hurt on another, or on one size and not the next. They are tried last, one at a
time, and stay only where the paired measurement of ``edgeattn.harness.latency`` says that they make this program
faster on this target, on this machine. What was measured is written beside what was chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeattn import decode, registry
from edgeattn.backends import Options
from edgeattn.errors import EdgeattnError
from edgeattn.harness import latency
from edgeattn.rewrite import Choice

if TYPE_CHECKING:
    from edgeattn.backends import Backend
    from edgeattn.program import Program
    from edgeattn.report.schema import LatencyReport

PAIRS = 60
SECONDS = 12.0
"""No choice is worth more; a machine that has not settled by then leaves the program as it was."""
WORTH = 1.005
"""A gain below half a percent is not worth another form of the graph, however sure."""


def by_latency(
    backend_name: str, options: Options, *, seed: int = 0, pairs: int = PAIRS, seconds: float = SECONDS
) -> Callable[[Program, Program], Choice]:
    """A chooser for ``edgeattn.rewrite``: opens both programs on the target and times them in the same rounds.

    Args:
        backend_name: registry name of an engine that is here.
        options: device, precision and threads; both programs get the same.
        seed: of the order within rounds and of the bootstrap.
        pairs, seconds: how long to measure.
    """
    backend: Backend = registry.get("backends", backend_name)
    target = f"{backend_name.replace('_', '-')}:{options.device}"

    def choose(before: Program, after: Program) -> Choice:
        if refused := backend.unsupported(after, options):
            return Choice(False, target, why=refused[0].reason)
        try:
            old, new = _unit(backend, options, before), _unit(backend, options, after)
            timed, _ = latency.measure(old, new, pairs=pairs, seed=seed, threads=options.threads, max_seconds=seconds)
        except EdgeattnError as error:
            return Choice(False, target, why=str(error))
        return verdict(timed, target)

    return choose


def verdict(timed: LatencyReport, target: str) -> Choice:
    """Whether what was measured as the engine is worth having in place of the reference."""
    low, high = timed.speedup.ci95
    plain = low is not None and beyond_noise(low, timed.aa_control.ci95)
    if low is None or high is None or (timed.verdict == "inconclusive" and not plain):
        return Choice(False, target, timed.speedup.median, (low, high), f"not settled: {timed.why}")
    keep = low > WORTH
    faster = "faster" if timed.verdict != "inconclusive" else "faster, by more than this busy machine's noise"
    why = faster if keep else "slower" if high < 1 else "no difference worth having"
    return Choice(keep, target, timed.speedup.median, (low, high), why)


def beyond_noise(low: float, control: tuple[float | None, float | None]) -> bool:
    """Whether a speedup's lower bound is above twice what the engine differs from itself by, as a ratio.

    On a busy machine the control may not settle to a percent, and a gain of two still be plain to see.
    """
    lowest, highest = control
    if lowest is None or highest is None or lowest <= 0:
        return False
    return low > max(highest, 1 / lowest) ** 2


def _unit(backend: Backend, options: Options, program: Program) -> Callable[[], object]:
    """One inference, or one whole sequence, of a program on its most typical case."""
    sessions = {graph: backend.load(model, options) for graph, model in program.graphs.items()}
    assert program.reference is not None
    case = program.reference.typical
    return lambda: decode.run(sessions, program.wiring, case.feeds, case.tokens)
