"""ONNX Runtime on the CPU: runs the portable ONNX as it is; graph optimisation happens when it is opened.

Engine file: ``<graph>.onnx``. Effective precision is read from the graph ONNX Runtime optimised for itself
(its QLinearConv, QGemm … are its own business and are never saved into a bundle).
"""

from __future__ import annotations

import mmap
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.backends import Availability, Engine, Options, Refusal
from edgeattn.backends._common import (
    explain_failure,
    fewer_threads,
    newer_opsets,
    precision_summary,
    probe_package,
    refusal,
    usable_cores,
)
from edgeattn.errors import MissingPackage
from edgeattn.graphs import macs_by_node
from edgeattn.phase import native
from edgeattn.program import Program, QdqDialect, TensorSpec
from edgeattn.publish import scratch

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array, Arrays

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
_DEQUANTIZES, _QUANTIZES = b"DequantizeLinear", b"QuantizeLinear"  # the second is no part of the first
_NEWEST_OPSET = 26
# One node for two Adds and a LayerNormalization, at six times their cost (version 1.31, AVX-512, 64 to 196 positions).
_SLOWER_FUSED = ["SkipLayerNormFusion"]
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


class OnnxRuntimeBackend:
    """The ONNX Runtime engine."""

    name = "onnxruntime"
    extra = "onnxruntime"
    devices = ("cpu",)
    qdq = QdqDialect(unsigned=True, requantize_conv_outputs=True, bias_apart=True, unpacks_at_once=False)

    def probe(self) -> Availability:
        """Whether ``onnxruntime`` imports, and its version."""
        return probe_package("onnxruntime", self.extra)

    def unsupported(self, program: Program, options: Options) -> list[Refusal]:
        """Opsets newer than this engine knows, and precisions its CPU provider only simulates."""
        refusals = newer_opsets(program, _NEWEST_OPSET)
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
                "precision": precision_summary(_executed(out / files[graph], options), macs_by_node(model)),
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
        from edgeattn import outside

        data = outside.rooted(model) if outside.tensors(model) else model.SerializeToString()
        return OnnxRuntimeSession(_inference_session(data, options))

    def variants(self, options: Options) -> list[Mapping[str, Any]]:
        """One thread."""
        return fewer_threads(options)


def _inference_session(model: str | bytes, options: Options, optimized: str = "") -> Any:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingPackage("onnxruntime", "onnxruntime") from error
    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # what goes wrong is raised too, and told in one line
    settings.intra_op_num_threads = options.threads or usable_cores()
    settings.inter_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    settings.graph_optimization_level = level.ORT_ENABLE_ALL if options.optimize else level.ORT_DISABLE_ALL
    if isinstance(model, bytes):
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", "/")
        if not options.optimize:  # a copy of every weight in another layout pays off only where time is measured
            settings.add_session_config_entry("session.disable_prepacking", "1")
    if options.precision == "fp32" and _weights_alone(model):  # else it rounds what they multiply to INT8 as well
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    settings.add_session_config_entry("session.qdq_matmulnbits_block_size", "-1")  # as few scales as waste no room
    if optimized:
        settings.optimized_model_filepath = optimized
        weights = f"{Path(optimized).name}.data"  # a graph of more than 2 GiB cannot be saved in one file
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
    try:
        with _OPENING:
            return ort.InferenceSession(
                model, settings, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOWER_FUSED
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


def _executed(file: Path, options: Options) -> Iterator[tuple[str, str]]:
    """``(node, precision)`` of every multiply-accumulate node ONNX Runtime will execute."""
    import onnx

    with scratch() as folder:
        optimized = folder / "optimized.onnx"
        _inference_session(str(file), options, str(optimized))
        nodes = onnx.load(optimized, load_external_data=False).graph.node
    for node in nodes:
        name = re.sub(r"_token_\d+$", "", node.name)  # a fused node keeps its convolution's name and adds a counter
        if node.op_type in _INT8_OPS:
            yield name, "int8"
        elif node.op_type in _FLOAT_OPS:
            yield name, "fp32"


def _spec(value: Any) -> TensorSpec:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(d if isinstance(d, int) else (d or "?") for d in value.shape)
    return TensorSpec(value.name, _DTYPES.get(kind, kind), shape)


BACKEND = OnnxRuntimeBackend()
