"""The options of ``compile`` that only some engines have: sizes, buckets, and settings of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

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
Buckets = Annotated[
    str,
    typer.Option("--buckets", help="Fixed lengths to build for: 16,32,64; with --lengths, how many.", metavar="N,…"),
]
Lengths = Annotated[
    Path | None,
    typer.Option("--lengths", help="Lengths met in use, LENGTH [COUNT] a line: buckets are chosen for them."),
]
Profile = Annotated[
    list[str] | None,
    typer.Option(
        help="Sizes of dynamic dimensions, for engines built for them; repeat for buckets.",
        metavar="NAME=LEAST:TYPICAL:LARGEST[,…]",
    ),
]
Setting = Annotated[
    list[str] | None,
    typer.Option("--engine", help="A setting of the engine's, listed below (repeatable).", metavar="KEY=VALUE"),
]
Tune = Annotated[bool, typer.Option("--tune", help="Measure the engine's settings here, and build with the fastest.")]


def asked(
    backend: Backend, options: Options, buckets: str, lengths: Path | None, spans: list[str], own: list[str]
) -> Options:
    """The options with ``--buckets``, ``--profile`` and ``--engine`` put in.

    Raises:
        UsageError: a value that is none, or an option that the engine does not have.
    """
    from dataclasses import replace

    from edgeattn import backends
    from edgeattn import buckets as fixed

    if lengths is not None and not buckets:
        raise UsageError("lengths without a number of buckets", where="--lengths", hint="add --buckets 3")
    sizes = fixed.parse(buckets, lengths) if buckets else ()
    found = replace(options, buckets=sizes, profiles=_buckets(spans), settings=_settings(own))
    backends.check_settings(backend, found, lambda key: f"--{key}")
    return found


def sized(backend: Backend, program: Program, options: Options) -> tuple[Program, Options]:
    """The program with cases inside the sizes that an engine is built for, and the options with all of these."""
    from dataclasses import replace

    from edgeattn import profile as profiles

    if not backend.profiled:
        return program, options
    options = replace(options, profiles=profiles.complete(program, options.profiles))
    return replace(program, reference=profiles.within(program, options.profiles)), options


class WithKnobs(TyperCommand):
    """A command whose help ends with the settings that each engine declares; engines are looked at only then."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The usual help, and those lines."""
        from edgeattn import registry

        lines = ["Settings for --engine, a target at a time (`edgeattn explain TARGET` says more):"]
        for name in registry.names("backends"):
            told = [f"{k.name}={k.takes.replace(' or ', '|')}" for k in registry.get("backends", name).knobs.listed()]
            if told:
                lines.append(f"{name.replace('_', '-')}: {', '.join(told)}.")
        self.epilog = "\n\n".join(lines)
        super().format_help(ctx, formatter)


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
