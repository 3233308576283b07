"""``gate=auto``: float or INT8 attention gates, by what each costs and loses on the target.

Both forms are quantized from the same data and opened in the engine. Gates go to INT8 only where the paired measurement
shows the program faster with it on this machine, and the answers to real cases stay within the INT8 limits and lose
little against float gates. What was measured, and why it was decided so, is in the program's history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from edgeattn import choose, decode
from edgeattn.backends import require_running
from edgeattn.errors import EdgeattnError, MissingPackage
from edgeattn.harness import parity
from edgeattn.quantize import attention_policy
from edgeattn.rewrite import Choice

if TYPE_CHECKING:
    from edgeattn.backends import Backend, Options
    from edgeattn.program import Program, Session
    from edgeattn.report.schema import StageParity

NOTE = "gate_choice"
MAY_LOSE_DB = 3.0
"""Half of the signal's distance to its noise; beyond, the saving is bought with answers."""
PLENTY_DB = 30.0
"""What the INT8 limits call good: from here on a loss against float gates is of no account."""


@dataclass(frozen=True)
class GateChoice:
    """How gates are treated, and why.

    Attributes:
        gate: ``float`` or ``int8``. why: in words.
        latency: what was measured; None where nothing was.
        sqnr_db: gate -> the worst output's signal to noise on real cases; empty where nothing was measured.
    """

    gate: str
    why: str
    latency: Choice | None = None
    sqnr_db: Mapping[str, float | None] = field(default_factory=dict)

    def __str__(self) -> str:
        noise = ", ".join(f"{gate} {db:.1f} dB" for gate, db in self.sqnr_db.items() if db is not None)
        return f"gate=auto took {self.gate}: {self.why}" + (f" ({noise})" if noise else "")


def settled(
    make: Callable[[str], Program], plain: Program, backend: Backend, options: Options, *, seed: int = 0
) -> Program:
    """The quantized program with the gates that are worth having on a target.

    Args:
        make: quantizes with gates in ``float`` or ``int8``.
        plain: the float program; its reference answers real cases.
        backend, options: the engine that both forms are opened in.
        seed: of the measurement.

    Raises:
        MissingPackage, Unsupported: the engine does not run here, so nothing can be measured.
    """
    require(backend, options)
    kept = make("float")
    if not any(attention_policy(model, "int8").products for model in plain.graphs.values()):
        return _noted(kept, GateChoice("float", "the program has no attention gate"))
    tried = make("int8")
    choice = decide(kept, tried, backend, options, seed=seed)
    return _noted(tried if choice.gate == "int8" else kept, choice)


def require(backend: Backend, options: Options) -> None:
    """Refuse before any work where the engine is not here, or can only be built here.

    Raises:
        MissingPackage: with the install line. Unsupported: with the reason why it does not run here.
    """
    here = backend.probe()
    if not here.available:
        raise MissingPackage(backend.name, backend.extra, why="gate=auto measures in it")
    require_running(backend, options, "gate=auto")


def decide(kept: Program, tried: Program, backend: Backend, options: Options, *, seed: int = 0) -> GateChoice:
    """Compare the program with float gates and the one with INT8 gates on the target; both have a reference."""
    try:
        before, after = (_judged(p, backend, options) for p in (kept, tried))
    except EdgeattnError as error:
        return GateChoice("float", f"not measured: {error}")
    noise = {"float": sqnr_db_of(before), "int8": sqnr_db_of(after)}
    wrong = _too_much(after, noise)
    if wrong:
        return GateChoice("float", wrong, None, noise)
    latency = choose.by_latency(backend.name, options, seed=seed)(kept, tried)
    return GateChoice("int8" if latency.keep else "float", f"INT8 gates on {latency}", latency, noise)


def _too_much(int8: StageParity, noise: Mapping[str, float | None]) -> str:
    """Why the answers with INT8 gates will not do; empty where they will."""
    failed = [name for name, output in int8.outputs.items() if output.verdict == "fail"]
    if failed:
        return f"INT8 gates fail parity on {', '.join(failed)}"
    before, after = noise["float"], noise["int8"]
    if before is None or after is None or after >= PLENTY_DB or before - after <= MAY_LOSE_DB:
        return ""
    return f"INT8 gates lose {before - after:.1f} dB"


def sqnr_db_of(judged: StageParity) -> float | None:
    """The worst output's."""
    return min((o.sqnr_db for o in judged.outputs.values() if o.sqnr_db is not None), default=None)


def _judged(program: Program, backend: Backend, options: Options) -> StageParity:
    assert program.reference is not None
    cases = program.reference.cases
    judged = [c for c in cases if parity.stands_for_calibration(c, cases)]
    sessions: dict[str, Session] = {graph: backend.load(model, options) for graph, model in program.graphs.items()}
    limits = parity.Limits.of("int8")
    return parity.judge("gate", lambda c: decode.run(sessions, program.wiring, c.feeds, c.tokens), judged, limits)


def _noted(program: Program, choice: GateChoice) -> Program:
    *before, last = program.history
    told: dict[str, Any] = {**asdict(choice), "said": str(choice)}
    return replace(program, history=(*before, replace(last, notes={**last.notes, NOTE: told})))
