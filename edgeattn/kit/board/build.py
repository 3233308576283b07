"""``python3 build.py``: check the kit, build its engines on this board."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Sequence

from . import versions
from .building import Asked, build
from .files import Kit
from .refusal import OK, USAGE, Refused, run, say

FOLDER = Path(__file__).resolve().parent.parent


def options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The options that building takes."""
    parser.add_argument("--any-version", action="store_true", help="go on with another TensorRT than the kit's")
    parser.add_argument("--workspace-mib", type=int, default=0, metavar="N", help="scratch memory for a kernel, in MiB")
    parser.add_argument("--compute-capability", default="", metavar="smNN", help="with --library tensorrt_rtx: sm89 …")
    return parser


def asked(told: argparse.Namespace) -> Asked:
    """What was asked for; tensorrt_rtx without a GPU must be told which one it builds for."""
    if told.library == versions.RTX and not told.compute_capability:
        what = "tensorrt_rtx builds for a GPU that need not be here"
        raise Refused(USAGE, what, "--library tensorrt_rtx", "add --compute-capability sm89")
    return Asked(told.library, told.any_version, told.compute_capability.lower(), told.workspace_mib)


def main(arguments: Sequence[str]) -> int:
    """Build; 0 if every engine was built."""
    parser = argparse.ArgumentParser(prog="build.py", description="Build this kit's engines on this board.")
    known = (versions.BOARD, versions.RTX)
    help_ = "tensorrt_rtx only shows that the graphs build: no board runs its engines"
    parser.add_argument("--library", choices=known, default=versions.BOARD, help=help_)
    told = options(parser).parse_args(arguments)
    kit = Kit(FOLDER)
    build(kit, asked(told))
    if told.library != versions.BOARD:
        say(f"a compile check by {told.library} for {told.compute_capability}: these are no engines of a Jetson")
        return OK
    say("built; next: python3 verify.py")
    return OK


if __name__ == "__main__":
    sys.exit(run("build.py", main, sys.argv[1:]))
