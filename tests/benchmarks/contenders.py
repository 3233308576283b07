"""Who runs in the benchmark table: our INT8 engines and what a user would pick instead, each as one callable.

Every contender computes the same thing on the same input, batch 1, with the same number of threads, through the
thinnest call its engine offers: PyTorch under ``inference_mode``, the others as their sessions take NumPy arrays, and a
decoder's step, whoever made it, as edgeattn's decode loop calls that engine.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from edgeattn import decode, export, merging, registry, source
from edgeattn.backends import Options, calibrator, oracle
from edgeattn.program import Case, Program
from edgeattn.quantize import Settings, forms, quantize
from edgeattn.rewrite import rewrite
from edgeattn.tasks.photos import TASK, crops
from tests.benchmarks.decoders import BAHDANAU, handed, step

Call = Callable[[], object]
Way = tuple[str, str, bool]
"""How a decoder is built: engine, scheme, and whether values and mask are hoisted out of the step."""
HOISTED = ("hoist_values", "merge_overlapping_products", "hoist_mask")
"""What leaves a decoder's step, or comes together there, beside its values."""
CALIBRATION = 32
"""Samples: latency does not depend on how many."""
SOURCE = 30
"""Tokens of the sentence that a decoder step attends to."""


@dataclass(frozen=True)
class Vision:
    """One network at 224 × 224 and everything built from it, each when first asked for."""

    name: str
    threads: int
    feeds: dict[str, np.ndarray] = field(default_factory=lambda: {"image": crops(1, held_out=True)})

    def eager(self) -> Call:
        return _module(self._source.graphs["main"], self.feeds)

    def compiled(self) -> Call:
        return _module(self._source.graphs["main"], self.feeds, compiled=True)

    def float32(self, engine: str) -> Call:
        """As exported: what an engine makes of the file alone."""
        return _engine(engine, self._exported.graphs["main"], self.feeds, Options("cpu", "fp32", self.threads))

    def ours(self, engine: str, *, hoisted: bool | None = None) -> dict[str, Callable[[], Call]]:
        """Every form that a recipe chooses from, by name: gates, the type around, strides hoisted where that is a rule.

        Args:
            hoisted: only the forms with strides hoisted, or only those without.
        """
        backend = registry.get("backends", engine)
        asked = Options("cpu", "int8", self.threads)
        around = ["fp32", *(c["around"] for c in backend.variants(asked) if "around" in c)]
        gates = ["float"] if self.name == "resnet50" else ["float", "int8"]
        strides = [False] if backend.qdq.strides_up else [False, True]
        if hoisted is not None:
            strides = [hoisted]
        return {
            f"gate={gate}, {kind} around" + ", strides hoisted" * moved: partial(self._ours, engine, gate, kind, moved)
            for gate, kind, moved in itertools.product(gates, around, strides)
        }

    def _ours(self, engine: str, gate: str, around: str, hoisted: bool) -> Call:
        model = _quantized(self.name, engine, gate, hoisted)
        return _engine(engine, model, self.feeds, Options("cpu", "int8", self.threads, around=around))

    def stock(self, engine: str) -> dict[str, Callable[[], Call]]:
        """The quantizer that comes with the engine, by its defaults."""
        if engine == "onnxruntime":
            return {"quantize_static": self._ort_static}
        return {"NNCF": self._nncf, "NNCF, pinned to f32": lambda: self._nncf("f32")}

    def ort_dynamic(self) -> Call:
        model = _ort_dynamic(self._exported.graphs["main"])
        return _engine("onnxruntime", model, self.feeds, Options("cpu", "int8", self.threads))

    def _ort_static(self) -> Call:
        model = _ort_static(self._exported.graphs["main"])
        return _engine("onnxruntime", model, self.feeds, Options("cpu", "int8", self.threads))

    def _nncf(self, pinned: str = "") -> Call:
        """NNCF's defaults, compiled with the engine's own default precision or a pinned one."""
        import nncf
        import openvino as ov

        core = ov.Core()
        ir = core.read_model(self._exported.graphs["main"].SerializeToString())
        samples = nncf.Dataset(list(crops(CALIBRATION, held_out=False)), lambda image: {"image": image[None]})
        quantized = nncf.quantize(ir, samples, subset_size=CALIBRATION)
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": self.threads}
        settings |= {"INFERENCE_PRECISION_HINT": pinned} if pinned else {}
        request = core.compile_model(quantized, "CPU", settings).create_infer_request()
        return lambda: request.infer(self.feeds, share_inputs=True, share_outputs=True)

    @property
    def _source(self) -> Any:
        return source.resolve(self.name).source

    @property
    def _exported(self) -> Program:
        return exported(self.name)


@dataclass(frozen=True)
class Step:
    """One decoder step at batch 1 on what its own encoder makes of a source of 30 tokens."""

    name: str
    source: Any
    threads: int
    built: dict[object, Program] = field(default_factory=dict, compare=False)

    def eager(self, *, compiled: bool = False) -> Call:
        sessions = export.eager_sessions(self.source)
        loop = self.source.wiring.loop
        return _module(self.source.graphs[loop], handed(sessions, self.source.wiring, SOURCE), compiled=compiled)

    def float32(self, engine: str) -> Call:
        return step(engine, Options("cpu", "fp32", self.threads), self._exported, SOURCE)

    def ort_dynamic(self) -> Call:
        graphs = {name: _ort_dynamic(model) for name, model in self._exported.graphs.items()}
        return step("onnxruntime", Options("cpu", "int8", self.threads), replace(self._exported, graphs=graphs), SOURCE)

    def ours(self) -> dict[str, Way]:
        """Every form that a recipe's measured rules and schemes choose from, by name."""
        schemes, engines = ("int8-static", "int8-dynamic", "int8-weights"), ("onnxruntime", "openvino")
        return {
            f"{scheme}{', values hoisted' * hoisted}, {engine}": (engine, scheme, hoisted)
            for engine in engines
            for scheme in schemes
            for hoisted in (False, True)
        }

    def step(self, way: Way) -> Call:
        """One of ``ours``: its step alone."""
        return step(way[0], Options("cpu", "int8", self.threads), self._quantized(way), SOURCE)

    def sentence(self, way: Way | None = None) -> Call:
        """A sentence decoded greedily, encoder included, by edgeattn's loop; by PyTorch eager where no way is given."""
        if way is None:
            wiring, sessions = self.source.wiring, export.eager_sessions(self.source)
        else:
            program, options = self._quantized(way), Options("cpu", "int8", self.threads)
            load = registry.get("backends", way[0]).load
            wiring, sessions = program.wiring, {name: load(model, options) for name, model in program.graphs.items()}
        src = np.random.default_rng(0).integers(3, 1000, (1, SOURCE))
        feeds = {"src": src, "src_mask": np.ones(src.shape, bool)}
        return lambda: decode.run(sessions, wiring, feeds)

    def whole(self, way: Way) -> Call:
        """The same sentence by one graph that decodes, as ``decoding: graph`` makes it."""
        options, backend = Options("cpu", "int8", self.threads), registry.get("backends", way[0])
        merged, _ = merging.settled(self._quantized(way), "graph", backend, options)
        session = backend.load(merged.graphs["main"], options)
        src = np.random.default_rng(0).integers(3, 1000, (1, SOURCE))
        feeds = {"src": src, "src_mask": np.ones(src.shape, bool)}
        return lambda: session.run(feeds)

    def _quantized(self, way: Way) -> Program:
        if way not in self.built:
            engine, scheme, hoisted = way
            also = (*forms(scheme), *(HOISTED if hoisted else ()))
            if also not in self.built:
                self.built[also] = rewrite(self._exported, oracle, also=also)
            settings = Settings(qdq=registry.get("backends", engine).qdq)
            self.built[way] = quantize(self.built[also], scheme, oracle, self._sentences(), settings)
        return self.built[way]

    @cached_property
    def _exported(self) -> Program:
        return export.export(self.source)

    def _sentences(self) -> Iterator[Case]:
        """Random tokens: the weights are untrained, and only speed is read from these engines."""
        rng = np.random.default_rng(0)
        for _ in range(4):
            src = rng.integers(3, 1000, (1, SOURCE))
            feeds = {"src": src, "src_mask": np.ones(src.shape, bool)}
            yield Case("calibration", feeds, rng.integers(3, 1000, (1, 8)))


def translators(threads: int) -> list[Step]:
    """Luong (2×LSTM-512) and Bahdanau (GRU-512), vocabulary 8,000."""
    family = registry.get("models", "rnnsearch")
    bahdanau = family.source(family.build(**BAHDANAU).eval())
    return [
        Step("Luong 2×LSTM-512", source.resolve("luong_2x512").source, threads),
        Step("Bahdanau GRU-512", bahdanau, threads),
    ]


@cache
def exported(name: str) -> Program:
    """As PyTorch exports it, at fixed sizes: engines run attention much slower where they are left open."""
    return rewrite(
        export.export(source.resolve(name).source),
        oracle,
        only=("fix_sizes",),
        sizes={"batch": 1, "height": 224, "width": 224},
    )


@cache
def rewritten(name: str, *, hoisted: bool = False) -> Program:
    return rewrite(rewritten(name), oracle, only=("hoist_strides",)) if hoisted else rewrite(exported(name), oracle)


@cache
def _quantized(name: str, engine: str, gate: str, hoisted: bool) -> onnx.ModelProto:
    settings = Settings(gate=gate, qdq=registry.get("backends", engine).qdq)
    return quantize(rewritten(name, hoisted=hoisted), "int8-static", calibrator, _batches(), settings).graphs["main"]


def _batches() -> Iterator[Case]:
    for batch in TASK.train(CALIBRATION, 1):
        yield Case("calibration", batch.feeds)


def _engine(engine: str, model: onnx.ModelProto, feeds: dict[str, np.ndarray], options: Options) -> Call:
    session = registry.get("backends", engine).load(model, options)
    return lambda: session.run(feeds)


def _module(graph: Any, feeds: dict[str, np.ndarray], *, compiled: bool = False) -> Call:
    module = torch.compile(graph.module.eval()) if compiled else graph.module.eval()
    given = [torch.from_numpy(np.asarray(feeds[spec.name])) for spec in graph.inputs]

    def call() -> object:
        with torch.inference_mode():
            return module(*given)

    call()
    return call


def _ort_static(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.samples = iter({"image": image[None]} for image in crops(CALIBRATION, held_out=False))

        def get_next(self) -> Any:
            return next(self.samples, None)

    return _through_files(
        model, lambda a, b: quantize_static(a, b, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    )


def _ort_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    """ONNX Runtime's dynamic quantizer; it refuses the shapes that PyTorch's exporter notes, so they are dropped."""
    from onnxruntime.quantization import quantize_dynamic

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    return _through_files(bare, lambda a, b: quantize_dynamic(a, b, per_channel=True))


def _through_files(model: onnx.ModelProto, tool: Callable[[Path, Path], object]) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as scratch:
        before, after = Path(scratch) / "float.onnx", Path(scratch) / "int8.onnx"
        onnx.save(model, before)
        tool(before, after)
        return onnx.load(after)
