"""What is measured: one graph at batch 1 in every precision, its PyTorch module, and what it should compute.

Preparing (export, rewrite, quantize, the oracle's answers) needs no GPU. ``prepare`` leaves a folder, ``load`` reads
it. A translator's subject is its step, fed what the encoder makes of a source of 30 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from edgeattn import export, outside, profile, source
from edgeattn.backends import oracle, tensorrt_rtx
from edgeattn.harness.parity import stands_for_calibration
from edgeattn.models import GraphSource, Source
from edgeattn.program import Case, Program
from edgeattn.quantize import Settings, forms, quantize
from edgeattn.rewrite import rewrite
from edgeattn.tasks.photos import SIZE, crops
from tests.benchmarks.decoders import handed

NAMES = ("cbam_resnet50", "resnet50", "se_resnet50", "vit_small", "luong_2x512")
SCHEMES = {"fp32": None, "fp16": "fp16", "int8": "int8-static"}
SENTENCE = 30
CALIBRATION = 32
_PARTS = ("feeds", "outputs", "golden", "rounded")


@dataclass(frozen=True)
class Subject:
    """One graph, ready to be built and timed.

    Attributes:
        name: of the zoo member. graph: its PyTorch module, with the names of what goes in and out.
        given: inputs as the module takes them. models: the ONNX graph in each precision.
        cases: what each precision is fed, and what PyTorch in FP32 (float64 where it exists) makes of it.
    """

    name: str
    graph: GraphSource
    given: Mapping[str, np.ndarray]
    models: Mapping[str, onnx.ModelProto]
    cases: Mapping[str, Case]


def prepare(name: str, folder: Path) -> None:
    """Write a subject's graphs, with what they are fed and judged by."""
    made = source.resolve(name).source
    program = export.export(made, real=list(_photographs(made, 1, held_out=True)))
    program = program if made.wiring else _fixed(program, made)
    folder.mkdir(parents=True, exist_ok=True)
    rewritten: dict[tuple[str, ...], Program] = {}
    for precision, scheme in SCHEMES.items():
        also = forms(scheme) if scheme else ()
        if also not in rewritten:
            rewritten[also] = rewrite(program, oracle, also=also)
        plain = rewritten[also]
        typed = _quantized(plain, scheme, made) if scheme else plain
        graph = made.wiring.loop if made.wiring else "main"
        outside.write(typed.graphs[graph], folder / f"{precision}.onnx")
        case = _case(plain, made)
        arrays = {f"{part}/{key}": value for part in _PARTS for key, value in getattr(case, part).items()}
        np.savez(folder / f"{precision}.npz", **arrays)


def load(name: str, folder: Path) -> Subject:
    """A subject that was prepared; its module is built again from its seed."""
    made = source.resolve(name).source
    cases = {precision: _read(folder / f"{precision}.npz") for precision in SCHEMES}
    models = {precision: onnx.load(folder / f"{precision}.onnx") for precision in SCHEMES}
    graph = made.graphs[made.wiring.loop if made.wiring else "main"]
    given = _handed(made) if made.wiring else cases["fp32"].feeds
    return Subject(name, graph, given, models, cases)


def _fixed(program: Program, made: Source) -> Program:
    """At batch 1 and, where it takes photographs, at their size: engines run attention much slower where it is open."""
    wanted = {"batch": 1, **({"height": SIZE, "width": SIZE} if _takes_photographs(made) else {})}
    sizes = {name: size for name, size in wanted.items() if name in profile.dynamic(program)}
    fixed = rewrite(program, oracle, only=("fix_sizes",), sizes=sizes)
    if left := sizes.keys() & set(profile.dynamic(fixed)):
        raise RuntimeError(f"{', '.join(left)} could not be fixed: {fixed.history[-1].notes}")
    return fixed


def _read(file: Path) -> Case:
    parts: dict[str, dict[str, np.ndarray]] = {part: {} for part in _PARTS}
    with np.load(file) as found:
        for key in found.files:
            part, name = key.split("/", 1)
            parts[part][name] = found[key]
    return Case("real", **parts)


def _quantized(program: Program, scheme: str, made: Source) -> Program:
    assert program.reference is not None
    cases = program.reference.cases
    data = list(_photographs(made, CALIBRATION, held_out=False))
    data = data or [case for case in cases if stands_for_calibration(case, cases)]
    return quantize(program, scheme, oracle, data, Settings(qdq=tensorrt_rtx.BACKEND.qdq))


def _case(program: Program, made: Source) -> Case:
    """What one run is fed and should give: of a CNN its typical case, of a translator one step."""
    assert program.reference is not None
    if program.wiring is None:
        return program.reference.typical
    step = export.eager_sessions(made)[program.wiring.loop]
    gives = {value.name for value in program.graphs[program.wiring.loop].graph.output}
    outputs = {name: value for name, value in step.run(_handed(made)).items() if name in gives}
    return Case("real", handed(oracle(program), program.wiring, SENTENCE), outputs=outputs)


def _handed(made: Source) -> dict[str, np.ndarray]:
    assert made.wiring is not None
    return handed(export.eager_sessions(made), made.wiring, SENTENCE)


def _takes_photographs(made: Source) -> bool:
    names = {spec.name: spec.shape for graph in made.graphs.values() for spec in graph.inputs}
    return tuple(names.get("image", ()))[1:] in ((3, SIZE, SIZE), (3, "height", "width"))


def _photographs(made: Source, count: int, *, held_out: bool) -> Iterator[Case]:
    if _takes_photographs(made):
        for i, image in enumerate(crops(count, held_out=held_out)):
            yield Case(f"real-{i + 1}", {"image": image[None]})
