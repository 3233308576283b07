"""A graph open in ONNX Runtime, and how it is opened there."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.backends import Options
from edgeattn.backends._common import explain_failure, refusal, usable_cores
from edgeattn.backends._onnxruntime_steps import Held, keeps_sizes
from edgeattn.errors import MissingPackage
from edgeattn.phase import native
from edgeattn.program import TensorSpec

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
_DEQUANTIZES, _QUANTIZES = b"DequantizeLinear", b"QuantizeLinear"  # the second is no part of the first
# One node for two Adds and a LayerNormalization, at six times their cost (version 1.31, AVX-512, 64 to 196 positions).
SLOWER_FUSED = ["SkipLayerNormFusion"]
# A product and a sum that is no constant become a Gemm, which no kernel multiplies packed: its weight would be unpacked
# to float at every run (0.29 ms for one of 512 × 512, version 1.31).
_UNPACKING_FUSED = [*SLOWER_FUSED, "MatMulAddFusion"]
_SPIN_US = 200  # longer than it takes to choose a token, shorter than anyone would notice
_OPENING, RUNNING = native("ONNX Runtime", "opening the graph"), native("ONNX Runtime", "running the graph")


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
            with RUNNING:
                values = self._session.run(self._names, feeds)
        except Exception as error:
            raise explain_failure("onnxruntime", error, self.inputs, feeds) from error
        return dict(zip(self._names, values, strict=True))

    def hold(self, state: Mapping[str, str], fixed: frozenset[str], read: frozenset[str] | None = None) -> Session:
        """The session for one sequence of steps, whose caller feeds back what came out; it ``read``s this alone."""
        from onnxruntime import OrtValue

        fits = keeps_sizes(self.inputs, self.outputs, state)
        return Held(self, state, fixed, OrtValue.ortvalue_from_numpy, read) if fits else self

    def binding(self) -> Any:
        """An empty binding of inputs and outputs to memory."""
        return self._session.io_binding()

    def run_bound(self, binding: Any) -> None:
        """Run once from and into the memory that is bound."""
        try:
            with RUNNING:
                self._session.run_with_iobinding(binding)
        except Exception as error:
            raise refusal("onnxruntime", error) from error


def in_memory(model: onnx.ModelProto) -> bytes:
    """A graph as ONNX Runtime reads it from memory: weights that lie outside are named by where they lie."""
    from edgeattn import outside

    return outside.rooted(model) if outside.tensors(model) else model.SerializeToString()


def inference_session(model: str | bytes, options: Options, optimized: str = "", profile: str = "") -> Any:
    """Open a graph in ONNX Runtime.

    Args:
        model: a path, or the bytes of a graph. options: what is asked of the engine.
        optimized: where the graph is left as ONNX Runtime optimised it. profile: how its profile is named.

    Raises:
        MissingPackage: ONNX Runtime is not installed. EngineFailed: it does not take the graph. OutOfResources: memory.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingPackage("onnxruntime", "onnxruntime") from error
    packed = _weights_alone(model)
    settings = _settings(options, packed=packed, memory=isinstance(model, bytes))
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
                disabled_optimizers=_UNPACKING_FUSED if packed and options.precision == "int8" else SLOWER_FUSED,
            )
    except Exception as error:
        raise refusal("onnxruntime", error) from error


def _settings(options: Options, *, packed: bool, memory: bool) -> Any:
    """How every session is opened; ``packed``: weights alone are INT8, ``memory``: the graph is no file."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # what goes wrong is raised too, and told in one line
    settings.intra_op_num_threads = options.threads or usable_cores()
    settings.inter_op_num_threads = 1
    # Threads wait busily for the next step of a decoder (a fifth of its time, where they had to be woken), and then
    # leave the cores to others: by default they would for long.
    settings.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    level = ort.GraphOptimizationLevel
    settings.graph_optimization_level = level.ORT_ENABLE_ALL if options.optimize else level.ORT_DISABLE_ALL
    if memory:
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", "/")
        if not options.optimize:  # a copy of every weight in another layout pays off only where time is measured
            settings.add_session_config_entry("session.disable_prepacking", "1")
    if options.precision == "fp32" and packed:  # else it rounds what they multiply to INT8 as well
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
    settings.add_session_config_entry("session.qdq_matmulnbits_block_size", "-1")  # as few scales as waste no room
    return settings


def _weights_alone(model: str | bytes) -> bool:
    """Whether a graph dequantizes and quantizes nothing: looked up as words in the file, which needs no parser."""
    if isinstance(model, bytes):
        return _DEQUANTIZES in model and _QUANTIZES not in model
    try:
        with open(model, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(_DEQUANTIZES) >= 0 and data.find(_QUANTIZES) < 0
    except (OSError, ValueError):  # missing or empty: ONNX Runtime says so better
        return False


def _spec(value: Any) -> TensorSpec:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(d if isinstance(d, int) else (d or "?") for d in value.shape)
    return TensorSpec(value.name, _DTYPES.get(kind, kind), shape)
