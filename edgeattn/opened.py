"""An engine's files, open: on its device or on what stands in for it; and proof that padding has no effect.

The files of some engines open on other devices too (OpenVINO's IR on any CPU). Those numbers are the device's as far as
the graph goes: what the device itself rounds away stays open, and the report says on what it was judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeattn import backends, buckets, decode
from edgeattn.errors import Unsupported
from edgeattn.harness import parity
from edgeattn.harness.limits import Limits

if TYPE_CHECKING:
    from edgeattn.backends import Backend, Engine
    from edgeattn.program import Program, Session


def engine(backend: Backend, built: Engine) -> tuple[Mapping[str, Session], str]:
    """The sessions of an engine, and what they run on where that is not what was asked for.

    Returns:
        Nothing where its files open on nothing that is here. The second value is empty where the engine itself runs.
    """
    options, place = built.options, ""
    if not backend.executes(options).available:
        found = backends.stand_in(backend, options)
        if found is None:
            return {}, ""
        options, place = found, f"its files on the {found.device.upper()} in {found.precision}"
    return {graph: backend.open(built.directory / f, options) for graph, f in built.files.items()}, place


def unpadded(program: Program, sessions: Mapping[str, Session], precision: str) -> Program:
    """The program with those of its cases that its buckets hold, after each gave what it gives without padding.

    Args:
        program: with its reference. sessions: the engine, in buckets. precision: whose limits it is held to.

    Raises:
        UsageError: the buckets hold none of the cases.
        Unsupported: an answer differs, so padding does not stay without effect.
    """
    assert program.reference is not None
    kept = buckets.within(program.reference, lambda case: decode.run(sessions, program.wiring, case.feeds, case.tokens))
    judged = parity.judge(
        "buckets",
        lambda case: decode.run(sessions, program.wiring, case.feeds, case.tokens),
        kept.cases,
        Limits.of(precision),
    )
    for name, output in judged.outputs.items():
        if output.verdict == "fail":
            raise Unsupported(
                f"padded to a bucket it answers otherwise: {output.observed} in case '{output.worst_case}'",
                where=f"output '{name}'",
                hint="give the model a mask, True where an input is real; nothing was written",
            )
    return replace(program, reference=kept)
