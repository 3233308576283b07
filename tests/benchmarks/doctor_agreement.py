"""Does the table of capabilities say what engines say? ``python -m tests.benchmarks.doctor_agreement [ENGINE ...]``.

An older release of TensorRT for RTX: ``pip install --target DIR tensorrt_rtx_cu13==1.4.0.76``, and ``--path DIR``;
another GPU: ``--capability sm75``. The zoo alone: ``--zoo DIR --only zoo.``

Every graph of ``doctor_cases`` (ONNX's node tests in their forms, the planted graphs) and, with ``--zoo DIR``, those
of every trained model, exported, rewritten and quantized, is put to ``edgeattn.capabilities.findings`` and to the real
parser and builder in a child process. Prints how often they agree, and each graph they disagree on with both texts:
first what the table lets pass and the engine refuses.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgeattn.capabilities import findings
from tests.benchmarks.doctor_ask import ENGINES, Answer, version
from tests.benchmarks.doctor_cases import every_case
from tests.benchmarks.doctor_measure import answered
from tests.benchmarks.doctor_zoo import zoo_cases

TARGETS = {"tensorrt_rtx": "tensorrt-rtx:sm89", "openvino": "openvino:cpu", "onnxruntime": "onnxruntime"}


@dataclass(frozen=True)
class Verdict:
    """What both say of one graph."""

    name: str
    found: str
    answer: Answer

    @property
    def kind(self) -> str:
        """``agree``, ``false pass`` or ``false refusal``."""
        if (not self.found) == self.answer.taken:
            return "agree"
        return "false refusal" if self.found else "false pass"


def compare(files: Iterable[Path], answers: dict[Path, Answer], target: str) -> list[Verdict]:
    """The table's answer beside the engine's, for each file."""
    return [Verdict(f.name.removesuffix(".onnx"), told(f, target), answers[f]) for f in files]


def told(file: Path, target: str) -> str:
    """What the table finds, in one line; empty where it lets the graph pass."""
    found = findings({"main": onnx.load(file)}, target)
    return "; ".join(dict.fromkeys(f"{f.check}: {f.reason}" for f in found))


def target_of(engine: str, path: str, capability: str) -> str:
    """What the table calls the engine that is asked; of TensorRT for RTX, its release and the GPU it builds for."""
    if engine != "tensorrt_rtx":
        return TARGETS[engine]
    return f"tensorrt-rtx:{'.'.join(version(engine, path).split('.')[:2])},{capability}"


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """Agreement by origin of the graphs, as Markdown."""
    rows = ["| graphs | asked | taken | agree | false passes | false refusals |", "|---|---|---|---|---|---|"]
    for origin in ("all", *sorted({_origin(v.name) for v in verdicts})):
        part = [v for v in verdicts if origin in ("all", _origin(v.name))]
        kinds = [v.kind for v in part]
        counts = (
            len(part),
            sum(v.answer.taken for v in part),
            *(kinds.count(k) for k in ("agree", "false pass", "false refusal")),
        )
        rows.append(f"| {origin} | {' | '.join(map(str, counts))} |")
    return rows


def _origin(name: str) -> str:
    start = name.partition(".")[0]
    return start if start in ("planted", "zoo") else "node tests"


def main() -> int:
    """Print the tables; 1 where an engine refuses what the table lets pass."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("engines", nargs="*", default=[], help=f"of {', '.join(ENGINES)}; all by default")
    arguments.add_argument("--path", default="", help="a directory to import TensorRT for RTX from")
    arguments.add_argument("--capability", default="sm89", help="the GPU that TensorRT for RTX builds for")
    arguments.add_argument("--keep", type=Path, help="a directory for the answers; those in it are not asked again")
    arguments.add_argument("--only", default="", help="graphs whose name has this in it")
    arguments.add_argument("--zoo", type=Path, help="a folder that doctor_zoo filled: its graphs too")
    options = arguments.parse_args()
    passed_wrongly = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [file for file in every_case(folder) if options.only in file.name]
        if options.zoo:
            files += [file for file in zoo_cases(options.zoo) if options.only in file.name]
        for engine in options.engines or ENGINES:
            path = options.path if engine == "tensorrt_rtx" else ""
            target = target_of(engine, path, options.capability)
            answers = answered(engine, files, path, options.keep, options.capability)
            verdicts = compare(files, answers, target)
            print(f"\n## {target}\n", *table(verdicts), sep="\n")
            for kind in ("false pass", "false refusal"):
                for v in (v for v in verdicts if v.kind == kind):
                    print(f"{kind}: {v.name}\n    table:  {v.found or 'passes'}\n    engine: {_line(v.answer)}")
                    passed_wrongly += kind == "false pass"
    return int(passed_wrongly > 0)


def _line(answer: Answer) -> str:
    return "takes it" if answer.taken else f"{answer.stage}: {' '.join(answer.why.split())[:300]}"


if __name__ == "__main__":
    sys.exit(main())
