"""The graphs that commands are given and leave: the options that say which, and how a result is published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeattn.errors import UsageError

if TYPE_CHECKING:
    from edgeattn.program import Program, TensorSpec

_INPUTS = "Real inputs: an .npz, one array per input, to judge on beside seeded ones."
Inputs = Annotated[Path | None, typer.Option(help=_INPUTS)]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--shape", help="A shape that an input takes: x=1x3x224x224.", metavar="NAME=DIMS[:TYPE]"),
]
In = Annotated[Path, typer.Argument(metavar="IN", help="An .onnx file, or a program directory written by export.")]


def fixed_sizes(texts: list[str]) -> dict[str, int]:
    """``batch=1`` or ``x:0=1`` as a name and a size."""
    sizes: dict[str, int] = {}
    for text in texts:
        name, equals, size = text.rpartition("=")
        if not equals or not name or not size.isascii() or not size.isdecimal() or not 0 < int(size) < 2**31:
            raise UsageError("expected NAME=SIZE", where=f"--fix {text}", hint="like batch=1, or x:0=1 by input axis")
        if sizes.setdefault(name, int(size)) != int(size):
            raise UsageError(f"'{name}' is fixed twice, at {sizes[name]} too", where=f"--fix {text}")
    return sizes


def specs(texts: list[str]) -> list[TensorSpec]:
    """``--shape`` options as the shapes of inputs."""
    from edgeattn.recipe import parse_spec

    found: dict[str, TensorSpec] = {}
    for text in texts:
        name, equals, dims = text.partition("=")
        try:
            if not equals:
                raise ValueError("expected NAME=DIMS, like x=1x3x224x224")
            found[name] = parse_spec(name, dims)
        except ValueError as error:
            raise UsageError(str(error), where=f"--shape {text}") from None
    return list(found.values())


def save(program: Program, out: Path, force: bool) -> None:
    """Publish a program: a file for one graph, a directory for several."""
    from edgeattn import storage
    from edgeattn.publish import free_name, new_directory, new_file

    if program.wiring is not None and out.suffix == ".onnx":
        hint = f"name a directory: -o {out.with_suffix('')}; nothing was written"
        raise UsageError(f"the result is {len(program.graphs)} graphs and their wiring", where=f"-o {out}", hint=hint)
    if program.wiring is None:
        with new_file(out, force) as file:
            storage.save(program, file, free_name(out.with_name(f"{out.name}.data")))
        return
    with new_directory(out, force, mark=True) as work:
        storage.save(program, work)
