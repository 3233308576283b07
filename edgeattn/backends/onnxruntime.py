"""ONNX Runtime on the CPU: runs the portable ONNX as it is; graph optimisation happens when it is opened.

Engine file: ``<graph>.onnx``. Effective precision is read from the graph ONNX Runtime optimised for itself
(its QLinearConv, QGemm … are its own business and are never saved into a bundle).
"""

from __future__ import annotations

import json
import math
import mmap
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.backends import Availability, Engine, Executed, Options, Refusal
from edgeattn.backends._common import (
    Given,
    explain_failure,
    fewer_threads,
    newer_opsets,
    placed,
    precision_summary,
    probe_package,
    refusal,
    usable_cores,
)
from edgeattn.backends._onnxruntime_steps import Held, keeps_sizes
from edgeattn.errors import MissingPackage
from edgeattn.graphs import bodies, macs_by_node
from edgeattn.phase import native
from edgeattn.program import Program, QdqDialect, TensorSpec
from edgeattn.publish import scratch

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array, Arrays, Session

_DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    **{t: t for t in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}
_INT8_OPS = {"QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "QGemm", "MatMulIntegerToFloat"}
_INT8_OPS |= {"MatMulNBits", "DynamicQuantizeMatMul", "QLinearConvTranspose", "DynamicQuantizeLSTM"}
_FLOAT_OPS = {"Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "LSTM", "GRU", "RNN"}
_ROLES = {
    **dict.fromkeys(_INT8_OPS | _FLOAT_OPS, "product"),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"), "quantize"),
    **dict.fromkeys(("Transpose", "ReorderInput", "ReorderOutput"), "layout"),
    "Cast": "convert",
}
_LABELS = {1: "fp32", 2: "int8", 3: "int8", 10: "fp16", 11: "fp64", 16: "bf16"}  # by TensorProto.DataType
# What ONNX Runtime appends to the name of a node that it fused, moved or copied.
_MARKS = re.compile(r"^InsertedPrecisionFreeCast_|(_token_\d+|/duplicated|_nchwc)+$")
_WARM_UP_RUNS = 3
_DEQUANTIZES, _QUANTIZES = b"DequantizeLinear", b"QuantizeLinear"  # the second is no part of the first
_NEWEST_OPSET = 26
# One node for two Adds and a LayerNormalization, at six times their cost (version 1.31, AVX-512, 64 to 196 positions).
_SLOWER_FUSED = ["SkipLayerNormFusion"]
# A product and a sum that is no constant become a Gemm, which no kernel multiplies packed: its weight would be unpacked
# to float at every run (0.29 ms for one of 512 × 512, version 1.31).
_UNPACKING_FUSED = [*_SLOWER_FUSED, "MatMulAddFusion"]
_SPIN_US = 200  # longer than it takes to choose a token, shorter than anyone would notice
_OPENING, _RUNNING = native("ONNX Runtime", "opening the graph"), native("ONNX Runtime", "running the graph")


class OnnxRuntimeSession:
    """One graph open in ONNX Runtime."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())
        self._names = [spec.name for spec in self.outputs]

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run once; see :class:`edgeattn.program.Session`."""
        try:
            with _RUNNING:
                values = self._session.run(self._names, feeds)
        except Exception as error:
            raise explain_failure("onnxruntime", error, self.inputs, feeds) from error
        return dict(zip(self._names, values, strict=True))

    def hold(self, state: Mapping[str, str], fixed: frozenset[str]) -> Session:
        """The session for one sequence of steps, whose caller feeds back exactly what came out."""
        from onnxruntime import OrtValue

        fits = keeps_sizes(self.inputs, self.outputs, state)
        return Held(self, state, fixed, OrtValue.ortvalue_from_numpy) if fits else self

    def binding(self) -> Any:
        """An empty binding of inputs and outputs to memory."""
        return self._session.io_binding()

    def run_bound(self, binding: Any) -> None:
        """Run once from and into the memory that is bound."""
        try:
            with _RUNNING:
                self._session.run_with_iobinding(binding)
        except Exception as error:
            raise refusal("onnxruntime", error) from error


class OnnxRuntimeBackend:
    """The ONNX Runtime engine."""

    name = "onnxruntime"
    extra = "onnxruntime"
    devices = ("cpu",)
    joins = False
    kit = False
    profiled = False
    typed = False
    reads_loops = True
    knobs = ()
    qdq = QdqDialect(
        unsigned=True, requantize_conv_outputs=True, bias_apart=True, gates_as_scales=True, unpacks_at_once=False
    )

    def probe(self) -> Availability:
        """Whether ``onnxruntime`` imports, and its version."""
        return probe_package("onnxruntime", self.extra)

    def executes(self, options: Options) -> Availability:
        """On any CPU."""
        return self.probe()

    def unsupported(self, program: Program, options: Options) -> list[Refusal]:
        """Opsets newer than this engine knows, and precisions its CPU provider only simulates."""
        refusals = newer_opsets(program, _NEWEST_OPSET)
        if program.ir:
            hint = "quantize with int8-static, which is the portable one"
            refusals.append(Refusal("*", "", "the program was made for OpenVINO alone", hint))
        if options.precision in ("fp16", "bf16"):
            why = "the CPU provider computes fp16 in fp32" if options.precision == "fp16" else "there is no bf16 here"
            refusals.append(Refusal("*", "", why, "use precision fp32 or int8 here"))
        return refusals

    def compile(self, program: Program, options: Options, out: Path) -> Engine:
        """Save each graph and record what ONNX Runtime makes of it."""
        from edgeattn import outside

        started = time.perf_counter()
        files, effective = {}, {}
        for graph, model in program.graphs.items():
            files[graph] = f"{graph}.onnx"
            outside.write(model, out / files[graph])
            effective[graph] = {
                "device": "cpu",
                "precision": precision_summary(_products(out / files[graph], options, model), macs_by_node(model)),
                "settings": {
                    "threads": options.threads or usable_cores(),
                    "graph_optimization": f"all but {_SLOWER_FUSED[0]}",
                },
            }
        return Engine(self.name, options, out, files, effective, time.perf_counter() - started)

    def open(self, file: Path, options: Options) -> OnnxRuntimeSession:
        """Open an engine file."""
        return OnnxRuntimeSession(_inference_session(str(file), options))

    def load(self, model: onnx.ModelProto, options: Options) -> OnnxRuntimeSession:
        """Open a graph that is in memory; weights that lie outside are mapped from there."""
        return OnnxRuntimeSession(_inference_session(_bytes(model), options))

    def profile(
        self, model: onnx.ModelProto, options: Options, feeds: Arrays | None = None, runs: int = 0
    ) -> list[Executed]:
        """The graph ONNX Runtime made for itself, timed by its own profiler; see :class:`Backend`."""
        import onnx

        with scratch() as folder:
            optimized = folder / "optimized.onnx"
            profile = str(folder / "profile") if feeds is not None else ""
            session = _inference_session(_bytes(_with_names(model)), options, str(optimized), profile)
            times = _times(session, feeds, runs) if feeds is not None else {}
            graph = onnx.load(optimized, load_external_data=False).graph
        return _executed(graph, model, times)

    def variants(self, options: Options) -> list[Mapping[str, Any]]:
        """One thread."""
        return fewer_threads(options)


def _bytes(model: onnx.ModelProto) -> bytes:
    from edgeattn import outside

    return outside.rooted(model) if outside.tensors(model) else model.SerializeToString()


def _inference_session(model: str | bytes, options: Options, optimized: str = "", profile: str = "") -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingPackage("onnxruntime", "onnxruntime") from error
    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # what goes wrong is raised too, and told in one line
    settings.intra_op_num_threads = options.threads or usable_cores()
    settings.inter_op_num_threads = 1
    # Threads wait busily for the next step of a decoder (a fifth of its time, where they had to be woken), and then
    # leave the cores to others: by default they would for long.
    settings.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    level = ort.GraphOptimizationLevel
    settings.graph_optimization_level = level.ORT_ENABLE_ALL if options.optimize else level.ORT_DISABLE_ALL
    if isinstance(model, bytes):
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", "/")
        if not options.optimize:  # a copy of every weight in another layout pays off only where time is measured
            settings.add_session_config_entry("session.disable_prepacking", "1")
    packed = _weights_alone(model)
    if options.precision == "fp32" and packed:  # else it rounds what they multiply to INT8 as well
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    settings.add_session_config_entry("session.qdq_matmulnbits_block_size", "-1")  # as few scales as waste no room
    if optimized:
        settings.optimized_model_filepath = optimized
        weights = f"{Path(optimized).name}.data"  # a graph of more than 2 GiB cannot be saved in one file
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
    if profile:
        settings.enable_profiling, settings.profile_file_prefix = True, profile
    try:
        with _OPENING:
            return ort.InferenceSession(
                model,
                settings,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_UNPACKING_FUSED if packed and options.precision == "int8" else _SLOWER_FUSED,
            )
    except Exception as error:
        raise refusal("onnxruntime", error) from error


def _weights_alone(model: str | bytes) -> bool:
    """Whether a graph dequantizes and quantizes nothing: looked up as words in the file, which needs no parser."""
    if isinstance(model, bytes):
        return _DEQUANTIZES in model and _QUANTIZES not in model
    try:
        with open(model, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(_DEQUANTIZES) >= 0 and data.find(_QUANTIZES) < 0
    except (OSError, ValueError):  # missing or empty: ONNX Runtime says so better
        return False


def _products(file: Path, options: Options, model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """``(node, precision)`` of every multiply-accumulate node ONNX Runtime will execute."""
    import onnx

    with scratch() as folder:
        optimized = folder / "optimized.onnx"
        _inference_session(str(file), options, str(optimized))
        made = onnx.load(optimized, load_external_data=False)
    given = dict(bodies(model))
    inside = [(body.graph, given[place]) for place, body in bodies(made) if place in given]
    for graph, source in ((made.graph, model), *inside):
        for node in _executed(graph, source, {}):
            if node.role == "product":
                yield next(iter(node.stands_for), node.node), node.precision


def _executed(graph: onnx.GraphProto, model: onnx.ModelProto, times: Mapping[str, float]) -> list[Executed]:
    """The nodes of an optimised graph, in the names of the graph it was made from."""
    given, types = Given(model), _Types(graph)
    writers = {output: node.name for node in graph.node for output in node.output}
    nodes = []
    for node in graph.node:
        called = [_MARKS.sub("", name) for name in (node.name, *node.output)]
        role, known = _ROLES.get(node.op_type, "other"), given.find(called)[:1]
        added = role == "layout" and not any(given.ops[name] == node.op_type for name in known)
        nodes.append(
            Executed(
                node.name,
                node.op_type,
                role,
                "int8" if node.op_type in _INT8_OPS else types.label(node),
                node.domain,
                times.get(node.name, 0.0),
                () if added else given.product(known) if role == "product" else known,
            )
        )
    reads = {node.name: [writers[name] for name in node.input if name in writers] for node in graph.node}
    return placed(nodes, reads)


class _Types:
    """What nodes of an optimised graph compute in: ONNX Runtime saves no types of the values between them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._stored: dict[str, int] = {tensor.name: tensor.data_type for tensor in graph.initializer}
        self._stored |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._producer = {output: node for node in graph.node for output in node.output}

    def label(self, node: onnx.NodeProto) -> str:
        """The type of what a node reads first, or of its weights where that is computed by unknown operators."""
        found = [self._type(name) for name in node.input[:2]]
        return next((_LABELS[kind] for kind in found if kind in _LABELS), "fp32")

    def _type(self, name: str) -> int:
        for _ in range(len(self._producer) + 1):
            node = self._producer.get(name)
            if node is None or name in self._stored:
                return self._stored.get(name, 0)
            if node.op_type == "Cast":
                return int(node.attribute[0].i)
            if node.op_type in ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear") or not node.input:
                return 1 if node.op_type == "DequantizeLinear" else 2
            if node.op_type in ("QLinearConv", "QLinearMatMul", "QGemm"):
                return 2
            name = node.input[0]
        return 0


def _with_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a name for every node, which the profiler tells its times by."""
    import onnx

    if all(node.name for node in model.graph.node):
        return model
    named = onnx.ModelProto()
    named.CopyFrom(model)
    taken = {node.name for node in named.graph.node}
    for node in named.graph.node:
        if not node.name and node.output and node.output[0] not in taken:
            node.name = node.output[0]
    return named


def _times(session: Any, feeds: Arrays, runs: int) -> dict[str, float]:
    """Milliseconds of one run by node: the mean without the slowest tenth of the runs, which others disturbed."""
    given = {value.name: feeds[value.name] for value in session.get_inputs()}
    with _RUNNING:
        for _ in range(_WARM_UP_RUNS + runs):
            session.run(None, given)
    spans: dict[str, list[float]] = {}
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spans.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"] / 1000)
    kept = {name: sorted(times[_WARM_UP_RUNS:])[: math.ceil(0.9 * runs)] for name, times in spans.items()}
    return {name: sum(times) / len(times) for name, times in kept.items() if times}


def _spec(value: Any) -> TensorSpec:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(d if isinstance(d, int) else (d or "?") for d in value.shape)
    return TensorSpec(value.name, _DTYPES.get(kind, kind), shape)


BACKEND = OnnxRuntimeBackend()
