"""Pack a compiled program: engine files, portable ONNX, assets, a sample to test with, and last the manifest."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeattn import __version__, outside, registry
from edgeattn.bundle._reader import SCHEMA_VERSION, plain_path
from edgeattn.bundle.manifest import NAME, GraphEntry, Manifest, SelfTestEntry, Tolerance, entry, parse
from edgeattn.errors import BadInput, printable
from edgeattn.graphs import input_specs, output_specs

if TYPE_CHECKING:
    import onnx

    from edgeattn.backends import Engine
    from edgeattn.program import Array, Arrays, Program


@dataclass(frozen=True)
class Sample:
    """What ``Model.selftest`` runs and compares.

    Attributes:
        feeds: program inputs.
        outputs: expected program outputs; for a wired program stacked on axis 0, with ``tokens`` when greedy.
        tolerance: per output; an output without one must be equal.
        tokens: ``(batch, steps)`` int64 to force, or None to decode greedily.
    """

    feeds: Arrays
    outputs: Arrays
    tolerance: Mapping[str, Tolerance] = field(default_factory=dict)
    tokens: Array | None = None


# A self-test on another machine meets other instruction sets: FP32 sums round differently, and an INT8 value on a
# rounding edge may move by a level, so the tolerance is a share of the output's largest magnitude.
_TOLERATED = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}


def answered_sample(feeds: Arrays, outputs: Arrays, precision: str) -> Sample:
    """A sample with the tolerance its precision needs; integer outputs (tokens, labels) must be equal."""
    tolerance = {
        name: Tolerance(_TOLERATED[precision] * float(max(1.0, np.abs(value).max(initial=0.0))), 0.0)
        for name, value in outputs.items()
        if np.asarray(value).dtype.kind == "f"
    }
    return Sample(feeds, outputs, tolerance)


def pack(
    out: Path,
    *,
    program: Program,
    engine: Engine,
    model: str,
    target: str,
    task: str | None = None,
    assets: Mapping[str, bytes] | None = None,
    sample: Sample | None = None,
) -> Manifest:
    """Fill the existing directory ``out`` with a bundle.

    Args:
        out: an empty directory (see ``publish.new_directory``); ``engine.directory`` may be ``out / "engine"``.
        program: the graphs that were compiled; kept beside the engine as portable ONNX.
        engine: what the backend built.
        model: the configuration or file it came from. target: what was asked for, ``openvino:cpu``.
        task: name of the task, or None. assets: files an app needs (labels, vocabulary), name -> bytes.
        sample: packed for ``Model.selftest``.

    Returns:
        The manifest, as written.

    Raises:
        BadInput: an asset or graph name that cannot be a file name, or an object array in the sample.
    """
    _engine_files(engine, out / "engine")
    graphs = {name: _graph(out, name, program, engine) for name in program.graphs}
    kept = {name: _asset(out, name, data) for name, data in (assets or {}).items()}
    tested = None if sample is None else _sample(out / "selftest.npz", sample)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        edgeattn=__version__,
        model=model,
        task=task,
        target=target,
        backend=engine.backend,
        device=_common(engine, "device") or engine.options.device,
        precision={"requested": engine.options.precision, "effective": _effective_precision(engine)},
        graphs=graphs,
        wiring=program.wiring,
        options={
            "device": engine.options.device,
            "precision": engine.options.precision,
            "threads": engine.options.threads,
            "around": engine.options.around,
            **({"hint": engine.options.hint} if engine.options.hint != "latency" else {}),
        },
        engine=engine.effective,
        created_with=_versions(engine.backend),
        assets=kept,
        selftest=tested,
        files={p.relative_to(out).as_posix(): entry(p) for p in sorted(out.rglob("*")) if p.is_file()},
    )
    text = manifest.dumps()
    (out / NAME).write_text(text, "utf-8")
    return parse(text)


def _engine_files(engine: Engine, target: Path) -> None:
    if engine.directory.resolve() != target.resolve():
        shutil.copytree(engine.directory, target, symlinks=True)


def _graph(out: Path, name: str, program: Program, engine: Engine) -> GraphEntry:
    """Save the portable ONNX, unless the engine's own file already is that very graph.

    A state that the engine keeps is no output of its graph.
    """
    file, kept = engine.files[name], set(engine.effective.get(name, {}).get("states", {}).values())
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise BadInput("is not a usable graph name", where=printable(name, 80), hint="letters, digits, - and _")
    model = program.graphs[name]
    path = f"engine/{file}"
    if not _is_file_of(model, out / path):
        path = f"portable/{name}.onnx"
        (out / "portable").mkdir(exist_ok=True)
        if outside.tensors(model):
            outside.write(model, out / path)
        else:
            (out / path).write_bytes(model.SerializeToString(deterministic=True))
    outputs = tuple(spec for spec in output_specs(model) if spec.name not in kept)
    return GraphEntry(f"engine/{file}", path, input_specs(model), outputs)


def _is_file_of(model: onnx.ModelProto, file: Path) -> bool:
    """Whether an engine's file is the graph itself, byte for byte as it is written."""
    if outside.tensors(model):
        return file.suffix == ".onnx"  # written by outside.write, which is what would be written again
    return file.read_bytes() in (model.SerializeToString(deterministic=True), model.SerializeToString())


def _asset(out: Path, name: str, data: bytes) -> str:
    if not plain_path(name) or "/" in name:
        raise BadInput("is not a usable asset name", where=printable(name, 80), hint="use a plain file name")
    (out / "assets").mkdir(exist_ok=True)
    (out / "assets" / name).write_bytes(data)
    return f"assets/{name}"


def _sample(path: Path, sample: Sample) -> SelfTestEntry:
    arrays = {f"feed_{i}": np.asarray(value) for i, value in enumerate(sample.feeds.values())}
    arrays |= {f"output_{i}": np.asarray(value) for i, value in enumerate(sample.outputs.values())}
    if sample.tokens is not None:
        arrays["tokens"] = np.asarray(sample.tokens)
    if any(value.dtype.hasobject for value in arrays.values()):
        raise BadInput("holds Python objects", where="the sample of the self-test", hint="give plain arrays")
    np.savez(path, **arrays)  # type: ignore[arg-type]  # names never collide with savez's own `file`
    return SelfTestEntry(
        path.name, tuple(sample.feeds), tuple(sample.outputs), sample.tokens is not None, dict(sample.tolerance)
    )


def _common(engine: Engine, key: str) -> str:
    """What all graphs report under ``key``, ``a+b`` where they differ."""
    return "+".join(sorted({str(report[key]) for report in engine.effective.values() if key in report}))


def _effective_precision(engine: Engine) -> str:
    labels = {str(report["precision"]["label"]) for report in engine.effective.values() if "precision" in report}
    labels -= {"n/a"} if len(labels) > 1 else set()
    return "+".join(sorted(labels)) or "unknown"


def _versions(backend: str) -> dict[str, str]:
    versions = {"edgeattn": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for package in ("numpy", "onnx", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    here = registry.get("backends", backend).probe() if backend in registry.names("backends") else None
    return {**versions, backend: here.version} if here is not None and here.available else versions
