"""What ``compile`` leaves around what a backend wrote: a bundle, or a build kit for a board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeattn.backends import Engine
    from edgeattn.program import Program


def deliver(work: Path, program: Program, engine: Engine, model: str, target: str) -> str:
    """Complete the directory ``work`` to what its backend's engines travel in.

    Returns:
        What answered for the engine in a bundle's self-test, where the engine itself does not run here; else empty.
    """
    from edgeattn import registry

    return (_kit if registry.get("backends", engine.backend).kit else _bundle)(work, program, engine, model, target)


def _bundle(work: Path, program: Program, engine: Engine, model: str, target: str) -> str:
    from edgeattn import backends, decode, opened, registry
    from edgeattn.bundle.pack import answered_sample, pack

    options = engine.options
    sessions, place = opened.engine(registry.get("backends", engine.backend), engine)
    if options.buckets:
        judged = "fp32" if place and options.precision != "int8" else options.precision
        program = opened.unpadded(program, sessions, judged)
    assert program.reference is not None
    case = program.reference.cases[0]
    answer = decode.run(sessions or backends.rounded(program), program.wiring, case.feeds)
    sample = answered_sample(case.feeds, answer, options.precision)
    pack(work, program=program, engine=engine, model=model, target=target, sample=sample)
    return place


def _kit(work: Path, program: Program, engine: Engine, model: str, target: str) -> str:
    from edgeattn import kits, outside
    from edgeattn.harness.limits import Limits

    ours = sum(outside.size(graph) for graph in program.graphs.values())
    limits = Limits.of(engine.options.precision)
    kits.write(work, program, engine, kits.Ask(model=model, target=target, limits=limits, reference_bytes=ours))
    return ""
