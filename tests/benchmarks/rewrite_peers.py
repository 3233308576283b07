"""Real exports through each graph rewriter: nodes left, and latency in each engine, timed in the same rounds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np

from edgeattn import decode, export, registry, source
from edgeattn.backends import Options, oracle
from edgeattn.program import Case, Program
from edgeattn.rewrite import _check, rewrite
from tests.benchmarks import tools

MODELS = ("cbam_resnet50", "luong_2x512")


def forms(model: str) -> dict[str, Program]:
    """The export, and what each rewriter here makes of it; a rewriter that fails is told and left out."""
    exported = export.export(source.resolve(model).source)
    found = {"as exported": exported, "edgeattn": rewrite(exported, oracle)}
    for name, tool in tools.TOOLS.items():
        if name != "edgeattn" and tools.version(name):
            try:
                graphs = {graph: tool(proto, {}, "").model for graph, proto in exported.graphs.items()}
            except Exception as error:
                sys.stdout.write(f"{name} fails on {model}: {type(error).__name__}: {error}\n")
                continue
            found[name] = Program(graphs, exported.wiring)
    for name, program in found.items():
        sys.stdout.write(f"{model}, {name}: {_check.node_count(program)} nodes\n")
    return found


def case_of(program: Program) -> Case:
    """One image at 224 x 224, or a sentence of 30 and 20 forced tokens."""
    rng = np.random.default_rng(0)
    if program.wiring is None:
        return Case("image", {"image": rng.standard_normal((1, 3, 224, 224)).astype(np.float32)})
    src = rng.integers(3, 1000, (1, 30))
    return Case("sentence", {"src": src, "src_mask": np.ones(src.shape, bool)}, rng.integers(3, 1000, (1, 20)))


def comparisons(threads: int) -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """One inference, or one sentence, of every form: a comparison for each model and engine."""
    for model in MODELS:
        found = forms(model)
        case = case_of(found["as exported"])
        for engine in tools.ENGINES:
            calls = {name: _call(engine, program, case, threads) for name, program in found.items()}
            yield f"rewrite-peers: {model}, {engine}", calls


def _call(engine: str, program: Program, case: Case, threads: int) -> Callable[[], object]:
    backend, options = registry.get("backends", engine), Options("cpu", "fp32", threads)
    sessions = {graph: backend.load(model, options) for graph, model in program.graphs.items()}
    return lambda: decode.run(sessions, program.wiring, case.feeds, case.tokens)
