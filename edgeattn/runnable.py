"""Anything a user can name, open and ready to run: an ONNX file, a program directory, a bundle, or a PyTorch model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn import backends, decode, graphs, registry, rounding
from edgeattn.errors import UsageError
from edgeattn.harness.precision import labelled
from edgeattn.memory import assert_fits
from edgeattn.program import Program, Session, TensorSpec, Wiring

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays
    from edgeattn.report.schema import Precision


@dataclass(frozen=True)
class Runnable:
    """A program open in some engine.

    Attributes:
        name: what the user typed. engine: where it runs, in words.
        inputs: the inputs a user gives.
        program: the ONNX graphs, None for a bundle or PyTorch.
        precision: of a bundle, what was asked for and what runs. hint: what it is tuned for, ``latency`` as a rule.
    """

    name: str
    engine: str
    inputs: tuple[TensorSpec, ...]
    sessions: Mapping[str, Session]
    wiring: Wiring | None
    program: Program | None = None
    precision: Precision | None = None
    hint: str = "latency"

    def run(self, feeds: Arrays, tokens: Array | None = None) -> dict[str, Array]:
        """Run once; see :func:`edgeattn.decode.run`."""
        return decode.run(self.sessions, self.wiring, feeds, tokens)


def open_any(name: str, target: str = "onnxruntime", threads: int = 0, rounded: bool = False) -> Runnable:
    """Open what ``name`` stands for.

    Args:
        name: a path to an .onnx, a program directory or a bundle; or ``pytorch:MODEL`` for eager PyTorch, where
            MODEL is anything :func:`edgeattn.source.resolve` takes.
        target: engine for ONNX files.
        threads: for every engine; 0 takes all usable cores.
        rounded: FP16 and BF16 graphs that the target would compute in FP32 are computed as they are written, slowly
            (:func:`edgeattn.backends.rounded`): right for judging numbers, wrong for timing.

    Raises:
        UsageError: neither a path that exists nor ``pytorch:…``. Unsupported: the engine can only be built here.
    """
    if name.startswith("pytorch:"):
        return _eager(name, threads)
    path = Path(name)
    if (path / "manifest.json").exists():
        return _bundle(path)
    if not path.exists():
        raise UsageError("no such file", where=name, hint="give an .onnx, a bundle, or pytorch:MODEL")
    from edgeattn import storage

    program = storage.load(path)
    assert_fits(program)
    engine, device = backends.parse_target(target)
    backend: backends.Backend = registry.get("backends", engine)
    asked = _precision(program)
    options, told = backends.Options(device, asked, threads), target
    backends.require_running(backend, options, "this command")
    inputs = tuple(graphs.program_inputs(program))
    if asked in rounding.NAMES.values() and backend.unsupported(program, options):
        if rounded:
            told = f"every {asked} operator rounded"
            return Runnable(name, told, inputs, backends.rounded(program), program.wiring, program)
        options, told = backends.Options(device, threads=threads), f"{target}: {asked} in fp32"
    sessions = {graph: backend.load(model, options) for graph, model in program.graphs.items()}
    return Runnable(name, told, inputs, sessions, program.wiring, program)


def _precision(program: Program) -> str:
    """What the graphs themselves say that they compute in."""
    typed = {kind for model in program.graphs.values() for kind in rounding.types_in(model)}
    if typed:
        return min(typed)  # bf16 where both occur: more engines round FP16 than run BF16
    return "int8" if "DequantizeLinear" in graphs.histogram(program) else "fp32"


def _bundle(path: Path) -> Runnable:
    from edgeattn import runtime

    model = runtime.load(path)
    manifest = model.manifest
    hint = str(manifest.options.get("hint", "latency"))
    ran = labelled(str(manifest.precision.get("requested", "")), manifest.engine)
    return Runnable(str(path), manifest.target, model.inputs, model.sessions, manifest.wiring, precision=ran, hint=hint)


def _eager(name: str, threads: int) -> Runnable:
    from edgeattn import export, source
    from edgeattn.backends._common import usable_cores

    found = source.resolve(name.removeprefix("pytorch:"))
    export.use_threads(threads or usable_cores())
    inputs = tuple(export.program_inputs(found.source))
    return Runnable(name, "PyTorch eager", inputs, export.eager_sessions(found.source), found.source.wiring)
