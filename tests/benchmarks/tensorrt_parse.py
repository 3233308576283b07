"""Does TensorRT's parser take our INT8 graphs? ``python -m tests.benchmarks.tensorrt_parse [MEMBER ...]``.

TensorRT for RTX is the one of its packages that installs whole from PyPI; it parses without a GPU, and refuses what the
others refuse of a quantized graph: INT32 biases, zero points that are not 0, operators for dynamic quantization. Each
member of the zoo is exported, rewritten and quantized in the default dialect on its own seeded cases (structure is
judged here, not accuracy), and each graph parsed as a strongly typed network.

Where the package lies in another environment, ``--python`` names its interpreter: this file, run with ``--parse``,
needs nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

PAPER_SIZE = ("resnet50", "se_resnet50", "cbam_resnet50", "luong_2x512")
"""Beside every trained member, the ones that the latency tables are about."""


def members() -> list[str]:
    """Trained models, and ``PAPER_SIZE``."""
    from edgeattn import models

    trained = [name for name, (_, config) in models.configurations().items() if config.weights]
    return [*sorted(trained), *PAPER_SIZE]


def write(member: str, folder: Path) -> list[Path]:
    """The INT8 graphs of a member, in the dialect that every engine takes; one file a graph."""
    import onnx

    from edgeattn import export, source
    from edgeattn.backends import oracle
    from edgeattn.harness.parity import stands_for_calibration
    from edgeattn.quantize import quantize
    from edgeattn.rewrite import rewrite

    program = rewrite(export.export(source.resolve(member).source), oracle)
    assert program.reference is not None
    cases = program.reference.cases
    data = [case for case in cases if stands_for_calibration(case, cases)]
    files = []
    for graph, model in quantize(program, "int8-static", oracle, data).graphs.items():
        files.append(folder / f"{member}.{graph}.onnx")
        onnx.save(model, files[-1])
    return files


def parse(files: Sequence[Path]) -> dict[str, list[str]]:
    """File -> what the parser refuses of it, as ``node: why``; needs TensorRT for RTX alone."""
    import tensorrt_rtx as trt  # type: ignore[import-not-found, unused-ignore]

    told = {}
    for file in files:
        logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
        network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        parsed = parser.parse_from_file(str(file))
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        refused = [f"{e.node_name() or e.node_operator() or '?'}: {e.desc()}" for e in errors]
        told[file.name] = refused if refused or parsed else ["refused without a word"]
    return told


def parse_with(python: str, files: Sequence[Path]) -> dict[str, list[str]]:
    """As ``parse``, by another interpreter; the parser's own lines on stdout are left out."""
    command = [python, __file__, "--parse", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        return {file.name: [f"the parser died, exit {done.returncode}: {last[0]}"] for file in files}
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows(names: Sequence[str], python: str) -> Iterator[tuple[str, str, list[str]]]:
    """``(member, graph, refused)`` of each graph."""
    for member in names:
        with tempfile.TemporaryDirectory() as folder:
            told = parse_with(python, write(member, Path(folder)))
        for file, refused in told.items():
            yield member, file.removeprefix(f"{member}.").removesuffix(".onnx"), refused


def main() -> int:
    """Print the table; 1 where anything is refused."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("names", nargs="*", help="members, or with --parse files")
    arguments.add_argument("--python", default=sys.executable, help="an interpreter that has tensorrt_rtx")
    arguments.add_argument("--parse", action="store_true", help="parse files and print what is refused as JSON")
    options = arguments.parse_args()
    if options.parse:
        print(json.dumps(parse([Path(name) for name in options.names])))
        return 0
    failed = 0
    print("| member | graph | parsed | nodes refused |\n|---|---|---|---|")
    for member, graph, refused in rows(options.names or members(), options.python):
        failed += bool(refused)
        print(f"| {member} | {graph} | {'no' if refused else 'yes'} | {'; '.join(refused)} |", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
