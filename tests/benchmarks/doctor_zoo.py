"""Graphs of the zoo for ``doctor_agreement --zoo``: each trained model exported, rewritten, in FP16 and in INT8.

``python -m tests.benchmarks.doctor_zoo FOLDER [MEMBER ...]`` writes them, which takes most of an hour for all; members
that are there already are left.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import onnx

from edgeattn.program import Program
from tests.benchmarks.tensorrt_parse import members


def write(folder: Path, member: str) -> None:
    """The graphs of one member, as ``zoo.MEMBER.FORM.GRAPH.onnx``."""
    if any(folder.glob(f"zoo.{member}.int8.*")):
        return
    for form, program in _forms(member):
        for graph, model in program.graphs.items():
            onnx.save(model, folder / f"zoo.{member}.{form}.{graph}.onnx")


def _forms(member: str) -> Iterator[tuple[str, Program]]:
    from edgeattn import export, source
    from edgeattn.backends import oracle
    from edgeattn.harness.parity import stands_for_calibration
    from edgeattn.quantize import quantize
    from edgeattn.rewrite import rewrite

    exported = export.export(source.resolve(member).source)
    yield "exported", exported
    rewritten = rewrite(exported, oracle)
    yield "rewritten", rewritten
    assert rewritten.reference is not None
    cases = rewritten.reference.cases
    yield "fp16", quantize(rewritten, "fp16", oracle, ())
    yield "int8", quantize(rewritten, "int8-static", oracle, [c for c in cases if stands_for_calibration(c, cases)])


def zoo_cases(folder: Path) -> list[Path]:
    """What was written into a folder."""
    return sorted(folder.glob("zoo.*.onnx"))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(exist_ok=True)
    for name in sys.argv[2:] or members():
        write(target, name)
        print(name, flush=True)
