"""Programs on disk: one ``.onnx`` file, or a directory with one file a graph and ``wiring.json``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn import cases, decode, drawing, graphs, outside
from edgeattn.errors import BadInput
from edgeattn.files import read_regular
from edgeattn.memory import assert_fits
from edgeattn.preflight import read_model
from edgeattn.program import Case, Program, Stop, Wiring

if TYPE_CHECKING:
    from collections.abc import Callable

    import onnx

    from edgeattn.program import Arrays, Opener

_STEPS = 4  # forced steps of a case drawn for a wired program


def load(path: Path, warn: Callable[[str], None] = lambda line: None) -> Program:
    """Read a Program; every file is looked at in pure Python before any native code sees it.

    Args:
        path: an .onnx file, or a directory that ``save`` wrote.
        warn: receives what is odd but allowed, a line each.

    Raises:
        BadInput, Unsupported, IntegrityError: see :func:`edgeattn.preflight.read_model`.
    """
    if not path.is_dir():
        return Program({"main": _read(path, warn)})
    if not (path / outside.WIRING).exists():
        hint = "give an .onnx file, or a program directory as `edgeattn export` writes it"
        raise BadInput(f"is a directory without {outside.WIRING}", where=str(path), hint=hint)
    wiring = wiring_of(path)
    order = json.loads((path / outside.WIRING).read_bytes())["graphs"]
    return Program({name: _read(path / f"{name}.onnx", warn) for name in order}, wiring)


def _read(path: Path, warn: Callable[[str], None]) -> onnx.ModelProto:
    return read_model(path, warn=lambda line: warn(f"{path}: {line}"))


save = outside.write_program


def with_reference(
    program: Program,
    opener: Opener,
    seed: int = 0,
    given: drawing.Given | None = None,
    warn: Callable[[str], None] = lambda line: None,
) -> Program:
    """The program with itself as oracle: cases that its inputs take, answered by the graphs as they are.

    Raises:
        BadInput, UsageError: see :func:`edgeattn.drawing.draw`.
    """
    rng = np.random.default_rng(seed)
    assert_fits(program)
    sessions = opener(program)

    def forced(case: Case) -> Case:
        return case if program.wiring is None else replace(case, tokens=rng.integers(0, 2, (_batch(case), _STEPS)))

    def run(case: Case) -> Arrays:
        return decode.run(sessions, program.wiring, case.feeds, case.tokens)

    drawn = drawing.draw(graphs.program_inputs(program), lambda case: run(forced(case)), given, seed, warn)
    return replace(program, reference=cases.answered([forced(c) for c in drawn], "source graph", run))


def _batch(case: Case) -> int:
    return len(next(iter(case.feeds.values())))


def wiring_of(folder: Path) -> Wiring:
    """How the graphs of a program directory feed each other.

    Raises:
        BadInput: its ``wiring.json`` is not one.
    """
    path = folder / outside.WIRING
    hint = "a program directory holds wiring.json and one .onnx a graph, as `edgeattn export` writes it"
    try:
        value: dict[str, Any] = json.loads(read_regular(path, 1 << 20))
        if not all(isinstance(name, str) and name.isidentifier() for name in value["graphs"]):
            raise ValueError("graph names must be plain words")
        return Wiring(dict(value["feeds"]), dict(value["state"]), Stop(**value["stop"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"is not a wiring: {error}", where=str(path), hint=hint) from error
