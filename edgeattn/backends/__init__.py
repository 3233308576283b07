"""Engines: one engine, one file, one ``BACKEND``. The engine package is imported inside functions only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgeattn import registry
from edgeattn.backends._knobs import Knobs
from edgeattn.backends._quiet import silence_engines
from edgeattn.errors import EngineFailed, MissingPackage, Unsupported, UsageError
from edgeattn.target import parse as parse_target

if TYPE_CHECKING:
    import onnx

    from edgeattn.profile import Bucket
    from edgeattn.program import Arrays, Program, QdqDialect, Session

__all__ = [
    "Availability",
    "Backend",
    "Engine",
    "Executed",
    "Knobs",
    "Options",
    "Refusal",
    "calibrator",
    "check_settings",
    "oracle",
    "parse_target",
    "require_running",
    "rounded",
    "stand_in",
]

_ORACLES = ("onnxruntime", "openvino")

silence_engines()  # no engine file can be imported before this


@dataclass(frozen=True)
class Availability:
    """Whether an engine is here, or runs here: its version, or why not and how to get it."""

    available: bool
    version: str = ""
    why: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Refusal:
    """A reason an engine cannot build a program, found before any build; the graph ``*`` is the whole program."""

    graph: str
    node: str
    reason: str
    hint: str

    def at(self, target: str) -> str:
        """Where it is, for an error: the target, and the graph and node that it is about."""
        named = (f"graph '{self.graph}'" if self.graph != "*" else "", f"node '{self.node}'" if self.node else "")
        return ": ".join(filter(None, (target, ", ".join(filter(None, named)))))


@dataclass(frozen=True)
class Options:
    """What is asked of an engine.

    Attributes:
        device: ``cpu``, ``gpu`` …; for an engine whose file serves several at once, their names joined by commas.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``: the precision asked for.
        threads: intra-op threads; 0 means the physical cores this process may use.
        optimize: False switches graph optimisation off (for judging rewrites, never for timing).
        profiles: sizes that dynamic dimensions take, for engines that are built for them (:mod:`edgeattn.profile`);
            what is left open follows from the cases that the program is judged on.
        settings: the engine's own, by the names in its ``knobs``; what is not said has its default.
        around: what an INT8 graph computes its float parts in: ``fp32``, or ``bf16`` where the engine offers it.
        buckets: fixed lengths to build for, in place of a dynamic one; inputs are padded into the smallest.
    """

    device: str = "cpu"
    precision: str = "fp32"
    threads: int = 0
    optimize: bool = True
    around: str = "fp32"
    buckets: tuple[int, ...] = ()
    profiles: tuple[Bucket, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hint(self) -> str:
        """What the engine is tuned for: the ``latency`` of one request, or the ``throughput`` of many."""
        return str(self.settings.get("hint", "latency"))


@dataclass(frozen=True)
class Engine:
    """A compiled program on disk and what really runs in it.

    Attributes:
        backend: registry name. options: what was asked for.
        directory: where the files lie.
        files: graph name -> file name relative to ``directory`` that ``open`` takes.
        effective: per graph what the engine reports: ``{"device": …, "precision": {…}, "settings": {…}}``.
        seconds: build time.
        peak_bytes: by how much the process's memory grew at most while it was built; None where that is not known.
    """

    backend: str
    options: Options
    directory: Path
    files: Mapping[str, str]
    effective: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Executed:
    """One node that an engine really executes, in words that all engines share.

    Attributes:
        node: its name in the engine's own graph. op: its type there.
        role: ``product`` (multiply-accumulates), ``quantize`` (from or to INT8, as a pass of its own), ``layout`` (the
            same numbers in another order), ``convert`` (another type, but for INT8), ``other``.
        precision: what it computes in: ``fp32``, ``bf16``, ``int8`` …
        kernel: kernel and instruction set as the engine calls them; empty where it does not say.
        milliseconds: of one run; 0 where nothing was run.
        stands_for: the nodes of the given graph that it does, its own first; those without a name by their output.
        after: for what the engine added, the nearest nodes of the given graph before it.
    """

    node: str
    op: str
    role: str
    precision: str
    kernel: str = ""
    milliseconds: float = 0.0
    stands_for: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


class Backend(Protocol):
    """What an engine file offers.

    Attributes:
        name: the file stem. extra: the pip extra that brings the engine. devices: the first is the default.
        joins: whether one engine file may serve several devices at once, as ``tensorrt-rtx:sm89,sm120``.
        kit: whether what it writes is the graphs of a build kit (``edgeattn/kits.py``), to be built on a board.
        profiled: whether it is built for the sizes of dynamic dimensions (``Options.profiles``); others take any.
        typed: whether it computes in what the graph says, so that FP16 and BF16 are the graph's to ask for.
        bucketed: whether it builds for fixed lengths in place of a dynamic one (``Options.buckets``).
        knobs: its own settings (``Options.settings``). qdq: what it needs of a quantized graph.

    One whose devices have names of another form than a word has ``parse_device(asked, target)``. One whose files also
    open on a device that is here has ``stand_in(options)``, which says as what. One that tells in which precision the
    body of a Loop runs says so by ``reads_loops``.
    """

    name: str
    extra: str
    devices: tuple[str, ...]
    joins: bool
    kit: bool
    profiled: bool
    typed: bool
    bucketed: bool
    knobs: type[Knobs]
    qdq: QdqDialect

    def probe(self) -> Availability:
        """Whether the engine is here. Never raises."""
        ...

    def executes(self, options: Options) -> Availability:
        """Whether what it builds also runs on this machine, and why not. Never raises."""
        ...

    def unsupported(self, program: Program, options: Options) -> list[Refusal]:
        """Reasons this program cannot be built, asked before any build."""
        ...

    def compile(self, program: Program, options: Options, out: Path) -> Engine:
        """Build into the existing empty directory ``out``."""
        ...

    def open(self, file: Path, options: Options) -> Session:
        """Open one compiled graph. Needs numpy and the engine only."""
        ...

    def load(self, model: onnx.ModelProto, options: Options) -> Session:
        """Open a graph that is in memory, without touching the disk."""
        ...

    def profile(
        self, model: onnx.ModelProto, options: Options, feeds: Arrays | None = None, runs: int = 0
    ) -> list[Executed]:
        """The nodes that really run, in order, each with its time over ``runs`` runs of ``feeds`` where they are given.

        Empty where the engine does not tell.
        """
        ...

    def variants(self, options: Options) -> list[Mapping[str, Any]]:
        """Changes to ``options`` that may be faster on this machine, such as ``{"threads": 1}``; none is fine."""
        ...


def oracle(program: Program) -> dict[str, Session]:
    """Open a program with graph optimisation off, in the first engine that is here: the judge of rewrites.

    Raises:
        MissingPackage: neither ONNX Runtime nor OpenVINO is installed.
    """
    return _opened(program, Options(optimize=False), _ORACLES)


def calibrator(program: Program) -> dict[str, Session]:
    """Open a program to run hundreds of samples through it: optimised, convolutions in the engine that is fastest.

    Raises:
        MissingPackage: neither ONNX Runtime nor OpenVINO is installed.
    """
    nodes = [node for model in program.graphs.values() for node in model.graph.node]
    if len(program.graphs) == 1 and any(node.op_type == "Conv" for node in nodes):
        with contextlib.suppress(EngineFailed):  # what OpenVINO does not take, ONNX Runtime may
            return _opened(program, Options(), tuple(reversed(_ORACLES)))
    return _opened(program, Options(), _ORACLES)


def _opened(program: Program, options: Options, engines: tuple[str, ...]) -> dict[str, Session]:
    if program.ir:
        return {graph: registry.get("backends", "openvino").load_ir(ir, Options()) for graph, ir in program.ir.items()}
    for name in engines:
        backend: Backend = registry.get("backends", name)
        if backend.probe().available:
            return {graph: backend.load(model, options) for graph, model in program.graphs.items()}
    raise MissingPackage("onnxruntime", "onnxruntime", why="rewrites and calibration are computed with it")


def rounded(program: Program) -> dict[str, Session]:
    """As :func:`oracle`; FP16 and BF16 graphs compute with every operator's result rounded to their type.

    This is what such a program is judged by where it cannot run: see :mod:`edgeattn.rounding`.
    """
    from edgeattn import rounding

    return oracle(replace(program, graphs={g: rounding.visible(m) for g, m in program.graphs.items()}))


def stand_in(backend: Backend, options: Options) -> Options | None:
    """As what the engine's files open here where its device is missing; None where they do not."""
    found: Options | None = getattr(backend, "stand_in", lambda _: None)(options)
    return found


def check_settings(backend: Backend, options: Options, where: Callable[[str], str]) -> None:
    """Refuse settings, sizes and buckets that an engine has no use for.

    Args:
        where: names in errors where ``engine``, ``profile`` and ``buckets`` were given.

    Raises:
        UsageError: with the nearest settings.
    """
    name = backend.name.replace("_", "-")
    if options.buckets and not backend.bucketed:
        raise UsageError(f"{name} is not built for buckets", where=where("buckets"), hint="leave them out")
    if options.profiles and not backend.profiled:
        hint = "leave the profile out"
        raise UsageError(f"{name} is not built for sizes: it takes any", where=where("profile"), hint=hint)
    backend.knobs.of(options, where("engine"), name)


def require_running(backend: Backend, options: Options, purpose: str) -> None:
    """Refuse what runs the engine where it can only be built; ``purpose`` is what would run it, in a few words.

    Raises:
        Unsupported: with the reason why it does not run here.
    """
    here = backend.executes(options)
    if not here.available:
        target = f"{backend.name.replace('_', '-')}:{options.device}"
        raise Unsupported(f"{purpose} runs the engine, and {here.why}", where=target, hint=here.hint)


def installed(target: str) -> tuple[Backend, str]:
    """The backend and device of a target whose engine is here.

    Raises:
        UnknownName, UsageError: as :func:`parse_target`. MissingPackage: the engine is not here, and how to get it.
    """
    name, device = parse_target(target)
    backend: Backend = registry.get("backends", name)
    if not (found := backend.probe()).available:
        raise MissingPackage(name, backend.extra, why=found.why)
    return backend, device
