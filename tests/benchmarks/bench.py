"""Our engines beside what you would use instead: interleaved in one process, with an A/A control.

    make bench                                    everything
    python -m tests.benchmarks.bench vision       CBAM-ResNet-50 and plain ResNet-50 at 224 x 224, batch 1
    python -m tests.benchmarks.bench translator   the Luong step, 2 x LSTM-512, vocabulary 8,000, source 30
    python -m tests.benchmarks.bench rewrite-peers         CBAM-ResNet-50 and Luong through other graph rewriters
    python -m tests.benchmarks.bench rewrite-vision        CBAM-ResNet-50 before and after the rewrite, two exporters
    python -m tests.benchmarks.bench rewrite-decoder       decoder steps before and after rewriting, source 30 and 200
    python -m tests.benchmarks.bench rewrite-transformer   four transformers before and after the rewrite

Every contender gets the same threads and the same input; ratios are medians of per-round ratios with 95 % intervals.
Writes build/bench-<group>.json. The weights of these models are untrained: latency does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from edgeattn import decode, export, registry, source
from edgeattn.backends import Options, oracle
from edgeattn.backends._common import usable_cores
from edgeattn.harness import latency
from edgeattn.program import Case, Program
from edgeattn.quantize import Settings, quantize
from edgeattn.report.schema import Comparison
from edgeattn.rewrite import rewrite
from edgeattn.tasks.photos import TASK, crops
from tests.benchmarks import decoders, rewrite_peers, transformers, vision_rewrite

Calls = dict[str, Callable[[], object]]
CALIBRATION = 32
THREADS = usable_cores()


def engine_call(name: str, program: Program, case: Case, precision: str = "fp32") -> Callable[[], object]:
    backend = registry.get("backends", name)
    options = Options("cpu", precision, THREADS)
    sessions = {graph: backend.load(model, options) for graph, model in program.graphs.items()}
    return lambda: decode.run(sessions, program.wiring, case.feeds, case.tokens)


def calibration() -> Iterator[Case]:
    for batch in TASK.train(CALIBRATION, 4):
        yield Case("calibration", batch.feeds)


def stock_int8(program: Program) -> dict[str, Program]:
    """The same export through the quantizers that people take: ONNX Runtime's and NNCF's, with their defaults."""
    (model,) = program.graphs.values()
    return {"onnxruntime": Program({"main": _ort_static(model)})}


def _ort_static(model):
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.samples = iter({"image": image[None]} for image in crops(CALIBRATION, held_out=False))

        def get_next(self):
            return next(self.samples, None)

    with tempfile.TemporaryDirectory() as scratch:
        before, after = Path(scratch) / "float.onnx", Path(scratch) / "int8.onnx"
        onnx.save(model, before)
        quantize_static(before, after, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
        return onnx.load(after)


def nncf_call(model, case: Case) -> Callable[[], object]:
    import nncf
    import openvino as ov

    core = ov.Core()
    ir = core.read_model(model.SerializeToString())
    samples = nncf.Dataset(list(crops(CALIBRATION, held_out=False)), lambda image: {"image": image[None]})
    quantized = nncf.quantize(ir, samples, subset_size=CALIBRATION)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(quantized, "CPU", settings).create_infer_request()
    return lambda: request.infer(case.feeds, share_inputs=True, share_outputs=True)


def vision() -> Calls:
    calls: Calls = {}
    case = Case("real-1", {"image": crops(1, held_out=True)})
    for name in ("resnet50", "cbam_resnet50"):
        model = source.resolve(name).source
        eager = export.eager_sessions(model)
        exported = export.export(model)
        rewritten = rewrite(exported, oracle)
        calls[f"{name}: PyTorch eager"] = lambda s=eager: decode.run(s, None, case.feeds)
        for engine in ("onnxruntime", "openvino"):
            calls[f"{name}: {engine} FP32 as exported"] = engine_call(engine, exported, case)
            calls[f"{name}: {engine} FP32 ours"] = engine_call(engine, rewritten, case)
            settings = Settings(qdq=registry.get("backends", engine).qdq)
            ours = quantize(rewritten, "int8-static", oracle, calibration(), settings)
            calls[f"{name}: {engine} INT8 ours"] = engine_call(engine, ours, case, "int8")
        for engine, stock in stock_int8(exported).items():
            calls[f"{name}: {engine} INT8 its own quantizer"] = engine_call(engine, stock, case, "int8")
        calls[f"{name}: openvino INT8 NNCF"] = nncf_call(exported.graphs["main"], case)
    return calls


def translator() -> Calls:
    model = source.resolve("luong_2x512").source
    exported = export.export(model)
    rewritten = rewrite(exported, oracle)
    src = np.random.default_rng(0).integers(3, 1000, (1, 30))
    steps = np.random.default_rng(1).integers(3, 1000, (1, 20))
    case = Case("20 steps", {"src": src, "src_mask": np.ones(src.shape, bool)}, steps)
    eager = export.eager_sessions(model)
    calls: Calls = {"PyTorch eager": lambda: decode.run(eager, model.wiring, case.feeds, case.tokens)}
    for engine in ("onnxruntime", "openvino"):
        calls[f"{engine} FP32 as exported"] = engine_call(engine, exported, case)
        calls[f"{engine} FP32 ours"] = engine_call(engine, rewritten, case)
    return calls


def _one(title: str, calls: Callable[[], Calls]) -> Group:
    return lambda threads: iter([(title, calls())])


Group = Callable[[int], Iterator[tuple[str, Calls]]]
"""Threads -> titled comparisons; each is timed in rounds of its own."""
GROUPS: dict[str, Group] = {
    "vision": _one("vision", vision),
    "translator": _one("translator", translator),
    "rewrite-vision": vision_rewrite.comparisons,
    "rewrite-decoder": decoders.step_calls,
    "rewrite-transformer": transformers.comparisons,
    "rewrite-peers": rewrite_peers.comparisons,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("groups", nargs="*", help=", ".join(GROUPS))
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--threads", type=int, default=THREADS)
    asked = parser.parse_args()
    export.use_threads(asked.threads)
    Path("build").mkdir(exist_ok=True)
    for group in asked.groups or GROUPS:
        found = {}
        for title, calls in GROUPS[group](asked.threads):
            result = latency.compare_many(calls, pairs=asked.pairs, threads=asked.threads, max_seconds=300)
            found[title] = result.model_dump(mode="json")
            told(title, result)
            Path(f"build/bench-{group}.json").write_text(json.dumps(found, indent=2))


def told(title: str, result: Comparison) -> None:
    sys.stdout.write(f"\n{title}: {result.rounds} rounds, {result.threads} threads, {result.verdict} {result.why}\n")
    for entry in result.entries:
        low, high = (None, None) if entry.speedup is None else entry.speedup.ci95
        span = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
        ratio = "" if entry.speedup is None else f"{entry.speedup.median:6.2f}x{span} vs first"
        sys.stdout.write(f"  {entry.latency.p50_ms:9.3f} ms  {ratio:36} {entry.name}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
