"""The INT8 graphs of the zoo, and whether TensorRT's parser takes them: what ``pytest -m tensorrt`` asks.

TensorRT for RTX is the one of its packages that installs whole from PyPI; it parses without a GPU, and refuses what the
others refuse of a quantized graph: INT32 biases, zero points that are not 0, operators for dynamic quantization. Each
member of the zoo is exported, rewritten and quantized in the default dialect on its own seeded cases (structure is
judged here, not accuracy), and each graph parsed as a strongly typed network. ``tensorrt_matrix`` goes on to build.
"""

from __future__ import annotations

from collections.abc import Sequence
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
