"""A build kit: what a person carries to a board to build, judge and time there what cannot be built here.

``backends/jetson.py`` writes the graphs; this adds the scripts of ``edgeattn/kit`` as they are, what they need to know
(``kit.json``), inputs with the reference's answers (``goldens.npz``), the same builds as ``trtexec`` lines, a README
and last the MANIFEST: the sha256 of every file, in the lines that ``sha256sum -c`` reads.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn import __version__, fed, graphs, kit, rounding
from edgeattn.backends._tensorrt_layers import declared
from edgeattn.errors import BadInput, printable
from edgeattn.kit.board import versions
from edgeattn.kit.board.files import CONFIG, GOLDENS, MANIFEST, sha256
from edgeattn.program import Case, Program, TensorSpec

if TYPE_CHECKING:
    import onnx

    from edgeattn.backends import Engine
    from edgeattn.harness.limits import Limits
    from edgeattn.program import Array, Arrays

SCHEMA_VERSION = 1
GOLDEN_BYTES = 24 << 20
"""Unpacked, the first case aside: a board should not fetch more evidence than model."""
_SOURCE = Path(kit.__file__).parent


@dataclass(frozen=True)
class Ask:
    """What a kit is to show, beside the program itself.

    Attributes:
        model, recipe: what the report calls them. target: ``jetson:jp6.2``.
        limits: parity's. gates: the recipe's, by name; a gate that no board can judge is told as such.
        pairs, seed: of the timing. reference_bytes: of the graphs before any rewrite, 0 if unknown.
        notes: lines that the board's report repeats.
    """

    model: str
    target: str
    limits: Limits
    recipe: str = ""
    gates: Mapping[str, Any] = field(default_factory=lambda: {"precision": True, "parity": True})
    pairs: int = 300
    seed: int = 0
    reference_bytes: int = 0
    notes: Sequence[str] = ()


def write(folder: Path, program: Program, engine: Engine, ask: Ask) -> None:
    """Complete a directory that holds the graphs (``engine.files``) to a kit.

    Args:
        folder: ``engine.directory``.
        program: what was compiled, with its reference. engine: as the backend wrote it. ask: what is to be shown.

    Raises:
        BadInput: a graph whose name cannot be a file's, or a program without a reference.
    """
    if program.reference is None or not program.reference.cases:
        raise BadInput("has no inputs to verify with", where=ask.model, hint="give some: --inputs x.npz")
    for name in program.graphs:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
            raise BadInput("is not a usable graph name", where=printable(name, 80), hint="letters, digits, - and _")
    _scripts(folder)
    cases, left = _kept(program, ask.limits)
    np.savez_compressed(folder / GOLDENS, **dict(_arrays(cases, ask.limits)))  # type: ignore[arg-type]
    told = _told(program, engine, ask, cases, left)
    (folder / CONFIG).write_text(json.dumps(told, indent=2, allow_nan=False) + "\n", "utf-8")
    (folder / "trtexec.sh").write_text(_trtexec(told), "utf-8")
    (folder / "README.txt").write_text(_readme(told), "utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / MANIFEST).write_text("".join(lines), "utf-8")


def _scripts(folder: Path) -> None:
    (folder / "board").mkdir()
    for name in ("build.py", "verify.py"):
        (folder / name).write_bytes((_SOURCE / "entry.py").read_bytes())
    for path in sorted((_SOURCE / "board").glob("*.py")):
        (folder / "board" / path.name).write_bytes(path.read_bytes())


def _told(program: Program, engine: Engine, ask: Ask, cases: Sequence[Case], left: Sequence[str]) -> dict[str, Any]:
    """``kit.json``."""
    sizes = fed.profiles(program, engine.options.profiles)
    notes = [*ask.notes, f"answers are compared with those of {program.reference.origin}" if program.reference else ""]
    if left:
        notes.append(f"cases left out of the kit for their size: {', '.join(left)}")
    return {
        "schema_version": SCHEMA_VERSION,
        "edgeattn": __version__,
        "model": ask.model,
        "recipe": ask.recipe,
        "target": ask.target,
        "precision": engine.options.precision,
        "library": {"name": versions.BOARD, "version": versions.JETPACKS[engine.options.device]},
        "graphs": {
            name: {
                "file": engine.files[name],
                "inputs": [_spec(spec) for spec in graphs.input_specs(model)],
                "outputs": [_spec(spec) for spec in graphs.output_specs(model)],
                "profiles": sizes[name],
                "products": products(model),
                "types": types(model),
            }
            for name, model in program.graphs.items()
        },
        "wiring": None if program.wiring is None else asdict(program.wiring),
        "limits": {**_limits(ask.limits), "said": str(ask.limits)},
        "cases": [_case(case, ask.limits) for case in cases],
        "latency": {"pairs": ask.pairs, "seed": ask.seed},
        "gates": dict(ask.gates),
        "reference_bytes": ask.reference_bytes,
        "notes": [note for note in notes if note],
    }


def types(model: onnx.ModelProto) -> list[str]:
    """What a builder that types weakly must be allowed, beside FP32, for a graph to run in its own types."""
    quantized = {"int8"} if "DequantizeLinear" in graphs.histogram(Program({"main": model})) else set()
    return sorted(rounding.types_in(model) | quantized)


def products(model: onnx.ModelProto) -> dict[str, list[Any]]:
    """Node -> its multiply-accumulates, and what the graph says that they compute in."""
    macs = graphs.macs_by_node(model)
    return {node: [macs[node], label] for node, label in declared(model) if macs.get(node)}


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}


def _limits(limits: Limits) -> dict[str, Any]:
    names = ("name", "golden_floor", "golden_factor", "sqnr_db", "sqnr_fail_db", "cosine", "calibrated")
    return {name: getattr(limits, name) for name in names}


def _kept(program: Program, limits: Limits) -> tuple[list[Case], list[str]]:
    """The typical case first, then the others in order while they fit; the names of those that do not."""
    assert program.reference is not None
    first = program.reference.typical
    kept, left, used = [first], [], 0
    for case in program.reference.cases:
        if case is first:
            continue
        size = sum(value.nbytes for _, value in _arrays([case], limits))
        if used + size <= GOLDEN_BYTES:
            kept.append(case)
            used += size
        else:
            left.append(case.name)
    return kept, left


def _arrays(cases: Sequence[Case], limits: Limits) -> Iterator[tuple[str, Array]]:
    for i, case in enumerate(cases):
        for kind, values in (("feeds", case.feeds), ("outputs", case.outputs), ("golden", _golden(case, limits))):
            yield from ((f"c{i}.{kind}.{j}", np.asarray(value)) for j, value in enumerate(values.values()))
        if case.tokens is not None:
            yield f"c{i}.tokens", case.tokens


def _golden(case: Case, limits: Limits) -> Arrays:
    """Float64 answers where the limits ask for them."""
    return case.golden if limits.golden_floor is not None else {}


def _case(case: Case, limits: Limits) -> dict[str, Any]:
    golden = _golden(case, limits)
    return {
        "name": case.name,
        "feeds": list(case.feeds),
        "outputs": list(case.outputs),
        "golden": list(golden),
        "tokens": case.tokens is not None,
        "own": {name: _own_error(case, name) for name in golden if name in case.outputs},
    }


def _own_error(case: Case, name: str) -> float:
    """How far the reference, or one with every weight rounded once more, is from the float64 answers."""
    exact = np.asarray(case.golden[name], np.float64)
    near = [case.outputs[name], *([case.rounded[name]] if name in case.rounded else [])]
    errors = [np.abs(np.asarray(value, np.float64) - exact) for value in near if np.shape(value) == exact.shape]
    return max((float(error[np.isfinite(error)].max(initial=0.0)) for error in errors), default=0.0)


def _trtexec(told: Mapping[str, Any]) -> str:
    """The builds of ``build.py`` as command lines."""
    row = versions.ROWS[told["library"]["version"]]
    lines = [
        "#!/bin/sh",
        f"# What build.py does, for {told['target']} (TensorRT {row.version}). verify.py takes plans/ only.",
        "set -eu",
        'cd "$(dirname "$0")"',
        "mkdir -p plans-trtexec",
        'TRTEXEC="${TRTEXEC:-/usr/src/tensorrt/bin/trtexec}"',
    ]
    flags = [*row.trtexec, "--noTF32", "--profilingVerbosity=detailed"]
    for name, graph in told["graphs"].items():
        allowed = [] if row.typed else [f"--{kind}" for kind in graph["types"]]
        words = [f"--onnx={graph['file']}", f"--saveEngine=plans-trtexec/{name}.plan", *flags, *allowed]
        words.append("--timingCacheFile=plans-trtexec/timing.cache")
        for number, bucket in enumerate(graph["profiles"]):
            words += [f"--profile={number}"] * (len(graph["profiles"]) > 1)
            for kind in ("min", "opt", "max"):
                shapes = [f"{i}:{'x'.join(map(str, sizes[kind]))}" for i, sizes in bucket.items()]
                words.append(f"--{kind}Shapes={','.join(shapes)}")
        lines.append('"$TRTEXEC" ' + " ".join(shlex.quote(word) for word in words))
    return "\n".join(lines) + "\n"


def _readme(told: Mapping[str, Any]) -> str:
    """What this kit holds, and then what every kit's reader needs to know."""
    graphs_ = [
        f"    {graph['file']}: " + "; ".join(f"{s['name']} {s['dtype']}{s['shape']}" for s in graph["inputs"])
        for graph in told["graphs"].values()
    ]
    head = [
        f"Build kit: {printable(told['model'], 80)}, {told['precision']}, for {told['target']} "
        f"(TensorRT {told['library']['version']})",
        "",
        *(printable(line, 300) for line in graphs_),
        f"    limits: {told['limits']['said']}",
        f"    goldens.npz: {len(told['cases'])} cases",
        "",
        "",
    ]
    return "\n".join(head) + (_SOURCE / "README.txt").read_text("utf-8")
