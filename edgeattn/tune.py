"""Engine settings by measurement: threads, and the float type around INT8.

What is fastest differs by model, engine and machine, so a setting is taken only where the paired measurement of
``edgeattn.harness.latency`` shows this program faster with it on this machine, and where the answers stay within the
limits that the engine is judged by. What was tried and why it was kept or not is in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeattn import choose, decode
from edgeattn.backends import require_running
from edgeattn.errors import EdgeattnError
from edgeattn.harness import latency, parity
from edgeattn.rewrite import Choice

if TYPE_CHECKING:
    from edgeattn.backends import Backend, Options
    from edgeattn.harness.limits import Limits
    from edgeattn.program import Program, Session

PAIRS = 60
SECONDS = 12.0


def settings(
    program: Program,
    backend: Backend,
    options: Options,
    right: Callable[[Mapping[str, Session]], str],
    *,
    seed: int = 0,
) -> tuple[Options, list[tuple[str, Choice]]]:
    """The fastest of the settings that the engine offers, tried one at a time upon the best so far.

    Args:
        program: what is going to be built; its typical case is timed.
        backend: an engine that is here. options: where the search starts, and what it ends with if nothing is faster.
        right: why the answers of opened graphs will not do; empty where they will.
        seed: of the order within rounds and of the bootstrap.

    Raises:
        Unsupported: the engine can only be built here.

    Returns:
        The options, and what was tried, as ``("around=bf16", Choice)``.
    """
    require_running(backend, options, "measuring its settings")
    tried: list[tuple[str, Choice]] = []
    for change in backend.variants(options):
        name = ", ".join(f"{key}={value}" for key, value in change.items())
        choice = _race(program, backend, options, replace(options, **change), right, seed)
        tried.append((name, choice))
        if choice.keep:
            options = replace(options, **change)
    return options, tried


def within(program: Program, limits: Limits) -> Callable[[Mapping[str, Session]], str]:
    """A ``right`` that holds opened graphs to the answers of the program's reference."""

    def right(sessions: Mapping[str, Session]) -> str:
        assert program.reference is not None
        judged = parity.judge(
            "settings",
            lambda case: decode.run(sessions, program.wiring, case.feeds, case.tokens),
            program.reference.cases,
            limits,
        )
        failed = [name for name, output in judged.outputs.items() if output.verdict == "fail"]
        return f"parity fails on {', '.join(failed)}" if failed else ""

    return right


def _race(
    program: Program,
    backend: Backend,
    old: Options,
    new: Options,
    right: Callable[[Mapping[str, Session]], str],
    seed: int,
) -> Choice:
    assert program.reference is not None
    case, target = program.reference.typical, f"{backend.name.replace('_', '-')}:{new.device}"

    def unit(sessions: Mapping[str, Session]) -> Callable[[], object]:
        return lambda: decode.run(sessions, program.wiring, case.feeds, case.tokens)

    try:
        before, after = ({g: backend.load(m, o) for g, m in program.graphs.items()} for o in (old, new))
        timed, _ = latency.measure(unit(before), unit(after), pairs=PAIRS, seed=seed, max_seconds=SECONDS)
        choice = choose.verdict(timed, target)
        wrong = right(after) if choice.keep else ""
    except EdgeattnError as error:
        return Choice(False, target, why=str(error))
    return replace(choice, keep=False, why=f"{choice.why}, but {wrong}") if wrong else choice
