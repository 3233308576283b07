"""The typer application and the options that commands share."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from edgeattn import __version__

app = typer.Typer(
    name="edgeattn",
    help="Take a PyTorch attention model to a verified engine: export, rewrite, quantize, compile, prove.",
    epilog="Exit codes: 0 done, 1 a gate failed, 2 usage, 3 bad input, 4 unsupported here, 5 out of resources, "
    "6 integrity, 70 our bug, 75 inconclusive, 130/143 signal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that edgeattn wrote earlier.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write; whole or not at all.")]
OptionalOut = Annotated[Path | None, typer.Option("--out", "-o", help="Where to write; whole or not at all.")]
Target = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        help="onnxruntime, openvino[:cpu|gpu|npu|…], tensorrt-rtx[:sm89,sm120], tensorrt or jetson[:jp6.2].",
    ),
]
Precision = Annotated[
    str,
    typer.Option(help="fp32, bf16, fp16 or int8: what the engine is asked to compute in; else what the graph shows."),
]
Threads = Annotated[int, typer.Option(min=0, help="Threads; 0 takes every core this process may use.")]

_SECONDS = "Give up after this many seconds; 0: never."
Patience = Annotated[float, typer.Option("--timeout", envvar="EDGEATTN_TIMEOUT", min=0, help=_SECONDS)]
A_LOOK_S, A_JOB_S, FOREVER_S = 600.0, 3600.0, 0.0  # how long reading, converting and measuring may take


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgeattn {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


# Importing a module registers its commands; the order is the order of `edgeattn --help`.
for _commands in (
    "running",
    "stages",
    "quantizing",
    "compiling",
    "policing",
    "judging",
    "explaining",
    "looking",
    "doctoring",
    "listing",
):
    importlib.import_module(f"edgeattn.cli.{_commands}")
