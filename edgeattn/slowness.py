"""What ``edgeattn explain-latency`` looks into: a run, a bundle or a model on an engine, and whether INT8 pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeattn import backends, choose, decode, drawing, graphs, registry, storage, twin
from edgeattn.backends import Options
from edgeattn.backends._common import usable_cores
from edgeattn.errors import BadInput, EdgeattnError, MissingPackage, Unsupported, UsageError
from edgeattn.harness import environment, latency, layers, why
from edgeattn.memory import assert_fits
from edgeattn.program import Case, Program
from edgeattn.report.schema import Report
from edgeattn.report.timing import Ship, TimeReport
from edgeattn.target import require_precision

if TYPE_CHECKING:
    from edgeattn.backends import Backend
    from edgeattn.program import Session
    from edgeattn.report.schema import Comparison, Contender

_STEPS = 4  # forced steps of a decoder that came without tokens
_SECONDS = 20.0
_PLAINER = 1.02  # what bf16 must be faster by to be shipped in place of fp32, which loses nothing

Warn = Callable[[str], None]
Listen = Callable[[str, int, "int | None"], None]


@dataclass(frozen=True)
class Asked:
    """What a user says; empty is "as it was built", or for a model ONNX Runtime and what its graph shows.

    Attributes:
        target: ``openvino:cpu``. precision: see ``edgeattn.target``. threads: 0 for the cores of this process.
        given: inputs or shapes.
    """

    target: str = ""
    precision: str = ""
    threads: int = 0
    given: drawing.Given = field(default_factory=drawing.Given)


@dataclass(frozen=True)
class Subject:
    """A program on an engine with something to run.

    Attributes:
        target: ``onnxruntime:cpu``. kept: node -> why the quantizer left it in float, as a run recorded it.
    """

    program: Program
    backend: Backend
    options: Options
    target: str
    case: Case
    kept: Mapping[str, str] = field(default_factory=dict)


def find(path: Path, asked: Asked, warn: Warn = lambda line: None) -> Subject:
    """A run directory, a bundle, a program directory or an ONNX file, ready to be looked into.

    Raises:
        UsageError, UnknownName: no such file, target or precision. BadInput, IntegrityError: what is there is no model.
        MissingPackage, Unsupported, EngineFailed: the engine is not here, or does not take it.
    """
    if asked.precision:
        require_precision(asked.precision)
    if not path.exists():
        raise UsageError("no such file", where=str(path), hint="give a run directory, a bundle or an .onnx")
    if (path / "report.json").exists():
        if not (path / "bundle" / "manifest.json").exists():
            raise BadInput("is a run without an engine", where=str(path), hint="run the recipe again: edgeattn run")
        kept = why.kept_float(Report.read(path / "report.json").stages)
        return replace(_bundle(path / "bundle", asked), kept=kept)
    if (path / "manifest.json").exists():
        return _bundle(path, asked)
    return _model(path, asked, warn)


def _bundle(path: Path, asked: Asked) -> Subject:
    from edgeattn import runtime
    from edgeattn.preflight import read_model

    with runtime.load(path) as model:
        manifest, feeds = model.manifest, model.sample()
    program = Program({g: read_model(path / e.portable) for g, e in manifest.graphs.items()}, manifest.wiring)
    backend, options = _engine(asked.target or manifest.target, asked, Options(**manifest.options))
    return _checked(program, backend, options, _case(program, feeds))


def _model(path: Path, asked: Asked, warn: Warn) -> Subject:
    program = storage.load(path, warn)
    assert_fits(program)
    backend, options = _engine(
        asked.target or "onnxruntime", asked, Options(precision=twin.shown(program.graphs.values()))
    )
    subject = _checked(program, backend, options, Case("drawn", {}))
    sessions = _open(subject.program, backend, options)
    drawn = drawing.draw(
        graphs.program_inputs(program),
        lambda case: decode.run(sessions, program.wiring, case.feeds, _case(program, case.feeds).tokens),
        asked.given,
        warn=warn,
    )
    return replace(subject, case=_case(program, drawn[0].feeds))


def _case(program: Program, feeds: Mapping[str, object]) -> Case:
    """A case; a program that decodes is forced through a few steps, so that every engine runs as many."""
    import numpy as np

    if program.wiring is None:
        return Case("profiled", feeds)  # type: ignore[arg-type]
    rows = len(next(iter(feeds.values())))  # type: ignore[arg-type]
    return Case("profiled", feeds, np.full((rows, _STEPS), program.wiring.stop.start, np.int64))  # type: ignore[arg-type]


def _engine(target: str, asked: Asked, built: Options) -> tuple[Backend, Options]:
    name, device = backends.parse_target(target)
    backend: Backend = registry.get("backends", name)
    here = backend.probe()
    if not here.available:
        raise MissingPackage(name, backend.extra, why=here.why)
    threads = asked.threads or built.threads or usable_cores()
    options = replace(built, device=device, precision=asked.precision or built.precision, threads=threads)
    backends.require_running(backend, options, "a profile")
    return backend, options


def _checked(program: Program, backend: Backend, options: Options, case: Case) -> Subject:
    target = f"{backend.name.replace('_', '-')}:{options.device}"
    for refusal in backend.unsupported(program, options):
        raise Unsupported(refusal.reason, where=f"{target}: graph '{refusal.graph}'", hint=refusal.hint)
    return Subject(program, backend, options, target, case)


def explain(subject: Subject, top: int = 10) -> TimeReport:
    """Where the time of a subject goes.

    Raises:
        Unsupported: the engine does not tell.
    """
    found = layers.profile(subject.program, subject.backend, subject.options, subject.case)
    if not found.layers:
        raise Unsupported("does not tell what it executes", where=subject.target, hint="try -t openvino or onnxruntime")
    options, isa = subject.options, environment.describe().isa
    setting = why.Setting(subject.target, options.precision, options.threads, subject.kept, isa)
    return why.explain(found, subject.program, setting, top)


def ship(
    subject: Subject,
    against: Program | None = None,
    pairs: int = 60,
    seed: int = 0,
    listen: Listen = lambda what, done, total: None,
) -> Ship:
    """Whether INT8 pays: the subject beside its float program, in FP32 and in BF16 where this engine computes in it.

    Args:
        subject: in INT8. against: the float program; else it is read off the quantized one.
        pairs, seed: of the measurement.
    """
    try:
        given = {g: twin.floating(m) for g, m in subject.program.graphs.items()} if against is None else against.graphs
        plain = replace(subject.program, graphs=given)
        floats = {p: replace(subject.options, precision=p) for p in ("fp32", "bf16")}
        calls = {"int8": _unit(subject.program, subject, subject.options)}
        for name, options in floats.items():
            if not subject.backend.unsupported(plain, options):
                calls[name] = _unit(plain, subject, options)
        timed = latency.compare_many(
            calls,
            pairs=pairs,
            seed=seed,
            threads=subject.options.threads,
            max_seconds=_SECONDS,
            progress=lambda done, total: listen("INT8 beside float", done, total),
        )
    except EdgeattnError as error:
        return Ship(why=f"not compared: {error}")
    return verdict(timed)


def verdict(timed: Comparison) -> Ship:
    """What to ship, from INT8 (the baseline) and float timed in the same rounds."""
    int8, *floats = timed.entries
    faster = [c for c in floats if _surely_above(c)]
    unsure = [c for c in floats if c not in faster and not _surely_below(c)]
    times = {c.name: c.latency.p50_ms for c in timed.entries}
    speedups = {c.name: 1 / c.speedup.median for c in floats if c.speedup and c.speedup.median}
    told = ", ".join(f"{ratio:.2f}x the speed of {name}" for name, ratio in speedups.items())
    if faster:
        best = min(faster, key=lambda c: speedups[c.name] * (1.0 if c.name == "fp32" else _PLAINER))
        text = f"INT8 does not pay here: {told}; ship {best.name}"
        return Ship(ship=best.name, why=text, milliseconds=times, speedup=speedups)
    if unsure:
        text = f"INT8 is not surely faster than {', '.join(c.name for c in unsure)} here: {told}"
        text += f"; {timed.why}" if timed.why else "; without a need for its size, ship fp32"
        return Ship(why=text, milliseconds=times, speedup=speedups)
    return Ship(ship=int8.name, why=f"INT8 pays here: {told}", milliseconds=times, speedup=speedups)


def _surely_above(entry: Contender) -> bool:
    return _bound(entry, 0) > choose.WORTH and _told_apart(_bound(entry, 0), entry)


def _surely_below(entry: Contender) -> bool:
    high = _bound(entry, 1)
    return 0 < high < 1 / choose.WORTH and _told_apart(1 / high, entry)


def _told_apart(ratio: float, entry: Contender) -> bool:
    control = entry.aa_control
    return control is not None and choose.beyond_noise(ratio, control.ci95)


def _bound(entry: Contender, which: int) -> float:
    bound = entry.speedup.ci95[which] if entry.speedup else None
    return 0.0 if bound is None else bound


def _open(program: Program, backend: Backend, options: Options) -> dict[str, Session]:
    return {graph: backend.load(model, options) for graph, model in program.graphs.items()}


def _unit(program: Program, subject: Subject, options: Options) -> Callable[[], object]:
    sessions, case = _open(program, subject.backend, options), subject.case
    return lambda: decode.run(sessions, program.wiring, case.feeds, case.tokens)
