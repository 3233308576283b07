"""The options of ``compile`` that only some engines have: hints, buckets, state, blobs, fixed sizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgeattn.errors import UsageError

if TYPE_CHECKING:
    from edgeattn.backends import Backend, Engine, Options
    from edgeattn.cli.ui import Ui
    from edgeattn.profile import Bucket
    from edgeattn.program import Program

Fix = Annotated[
    list[str] | None,
    typer.Option("--fix", help="Fix a dimension first: batch=1, or x:0=1 (repeatable).", metavar="NAME=SIZE"),
]
Hint = Annotated[str, typer.Option("--hint", help="latency of one request, or throughput of many.")]
Buckets = Annotated[
    str,
    typer.Option("--buckets", help="Fixed lengths to build for: 16,32,64; with --lengths, how many.", metavar="N,…"),
]
Lengths = Annotated[
    Path | None,
    typer.Option("--lengths", help="Lengths met in use, LENGTH [COUNT] a line: buckets are chosen for them."),
]
Stateful = Annotated[
    bool | None,
    typer.Option("--stateful/--explicit-state", help="Whether a decoder's state stays in the engine; else the faster."),
]
Profile = Annotated[
    list[str] | None,
    typer.Option(
        help="Sizes of dynamic dimensions, for engines built for them; repeat for buckets.",
        metavar="NAME=LEAST:TYPICAL:LARGEST[,…]",
    ),
]
Setting = Annotated[
    list[str] | None, typer.Option("--engine", help="A setting of the engine's own.", metavar="KEY=VALUE")
]
Tune = Annotated[bool, typer.Option("--tune", help="Measure the engine's settings here, and build with the fastest.")]
Blob = Annotated[bool, typer.Option("--blob", help="Keep the compiled engine too, for this machine alone.")]


def asked(
    backend: Backend,
    options: Options,
    hint: str,
    buckets: str,
    lengths: Path | None,
    stateful: bool | None,
    blob: bool,
) -> Options:
    """The options with these put in.

    Raises:
        UsageError: a value that is none, or an option that the engine does not have.
    """
    from dataclasses import replace

    from edgeattn import backends
    from edgeattn import buckets as fixed

    if hint not in ("latency", "throughput"):
        raise UsageError(f"unknown hint '{hint[:40]}'", where="--hint", hint="latency or throughput")
    if lengths is not None and not buckets:
        raise UsageError("lengths without a number of buckets", where="--lengths", hint="add --buckets 3")
    if buckets and stateful:
        raise UsageError("buckets choose by what a step is given", where="--stateful", hint="leave one of the two out")
    sizes = fixed.parse(buckets, lengths) if buckets else ()
    found = replace(options, hint=hint, buckets=sizes, stateful=stateful, blob=blob)
    backends.refuse_unoffered(backend, found)
    return found


def sized(
    backend: Backend, program: Program, options: Options, spans: list[str], own: list[str]
) -> tuple[Program, Options]:
    """The options with ``--profile`` and ``--engine`` put in, and the program with cases inside those sizes.

    Raises:
        UsageError: a value that is none, or an option that the engine does not have.
    """
    from dataclasses import replace

    from edgeattn import backends
    from edgeattn import profile as profiles

    options = replace(options, profiles=_buckets(spans), settings=_settings(own))
    backends.check_settings(backend, options, "--engine", "--profile")
    if not backend.profiled:
        return program, options
    options = replace(options, profiles=profiles.complete(program, options.profiles))
    return replace(program, reference=profiles.within(program, options.profiles)), options


def _buckets(texts: list[str]) -> tuple[Bucket, ...]:
    """``--profile`` options: one bucket each."""
    from edgeattn.profile import parse_bucket

    try:
        return tuple(parse_bucket(text) for text in texts)
    except ValueError as error:
        raise UsageError(str(error), where="--profile") from None


def _settings(texts: list[str]) -> dict[str, Any]:
    """``--engine`` options by name; values are YAML, as in a recipe."""
    from edgeattn import plainyaml

    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError("expected KEY=VALUE", where=f"--engine {text}", hint="like --engine strip=true")
        found[name] = plainyaml.read(value, f"--engine {text}")[0]
    return found


def tell(ui: Ui, engine: Engine, place: str) -> None:
    """What is worth a line beside the result: who answered, which device ran what, how to compile on another."""
    if place:
        ui.log(f"answered and judged by {place}; the device's own rounding is not judged here")
    for graph, told in engine.effective.items():
        for why in told.get("absent", {}).values():
            ui.warn(f"{graph}: runs on {told['device']}; {why}")
        if "placement" in told:
            layers = ", ".join(f"{count} on {device}" for device, count in told["placement"]["layers"].items())
            ui.log(f"{graph}: layers {layers}")
        if "compile_there" in told:
            ui.log(
                f"{graph}: on the device, `edgeattn verify` compiles and checks it; by hand: {told['compile_there']}"
            )
