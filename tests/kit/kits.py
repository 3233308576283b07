"""Small kits, made as the command line makes them, and their scripts run as on a board: no edgeattn, isolated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgeattn import backends, cases, decode, graphs, kits, registry
from edgeattn.backends import Options
from edgeattn.harness.limits import Limits
from edgeattn.program import Case, Program, Reference, Stop, Wiring
from tests.graphs import conv_net, counter

# Imports of edgeattn fail in there, wherever it is installed.
_ALONE = """
import runpy, sys
sys.modules["edgeattn"] = None
sys.path += filter(None, [sys.argv[1]])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], {}, "__main__")
"""


def network() -> Program:
    """A small CNN with itself as reference."""
    program = Program({"main": conv_net()})
    return _answered(program, cases.of(program, graphs.program_inputs(program), 0))


def decoder() -> Program:
    """An encoder and a step that hands itself a state, with tokens to force."""
    parts, wiring = counter()
    program = Program(parts, Wiring(wiring["feeds"], wiring["state"], Stop(**wiring["stop"])))
    tokens = np.array([[1, 4, 2]])
    return _answered(program, [Case("real-1", {"begin": np.array([[2.0]], np.float32)}, tokens)])


def _answered(program: Program, asked: list[Case]) -> Program:
    sessions = backends.oracle(program)
    found = cases.answered(asked, "source graph", lambda c: decode.run(sessions, program.wiring, c.feeds, c.tokens))
    return Program(program.graphs, program.wiring, Reference(found.origin, found.cases))


def make(program: Program, folder: Path, device: str = "jp6.2", profiles: Any = (), **ask: Any) -> Path:
    """A kit in ``folder``, which is made."""
    folder.mkdir()
    engine = registry.get("backends", "jetson").compile(program, Options(device, profiles=profiles), folder)
    kits.write(folder, program, engine, kits.Ask("net", f"jetson:{device}", Limits.fp32(), **ask))
    return folder


def run(kit: Path, script: str, *arguments: str, packages: Path | None = None) -> subprocess.CompletedProcess[str]:
    """One of a kit's scripts; ``packages`` holds what is to be found beside what is installed, libraries too."""
    command = [sys.executable, "-I", "-B", "-c", _ALONE, str(packages or ""), str(kit / f"{script}.py"), *arguments]
    environment = {**os.environ, **({"LD_LIBRARY_PATH": str(packages)} if packages else {})}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment,
    )


def rehearse(kit: Path) -> subprocess.CompletedProcess[str]:
    """verify.py in ONNX Runtime, with as few rounds as there may be."""
    return run(kit, "verify", "--library", "onnxruntime", "--pairs", "20")
