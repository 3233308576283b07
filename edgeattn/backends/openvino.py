"""OpenVINO on Intel (and other x86/ARM) CPUs: the graph becomes IR, compiled when it is opened.

Engine files: ``<graph>.xml`` and ``<graph>.bin``, weights uncompressed (saving would halve them to FP16 by
default, which breaks FP32 parity). The inference precision is always pinned, because OpenVINO otherwise picks
bf16 or f16 by itself on CPUs that have it; what really runs is read back from the compiled model.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
from edgeattn.backends._openvino_graph import extremes_apart, fake_quantized
from edgeattn.errors import MissingPackage
from edgeattn.graphs import macs_by_node
from edgeattn.phase import native
from edgeattn.program import Program, QdqDialect, TensorSpec

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array, Arrays

_DTYPES = {"f32": "float32", "f64": "float64", "f16": "float16", "boolean": "bool"}
_DTYPES |= {f"{s}{n}": f"{k}{n}" for s, k in (("i", "int"), ("u", "uint")) for n in (8, 16, 32, 64)}
_PINNED = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_LABELS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_RECURRENT = {"RNNCell", "RNNSeq", "LSTMCell", "LSTMSeq"}
_MAC_LAYERS = {"Convolution", "FullyConnected", "MatMul", "Deconvolution", *_RECURRENT}
_ROLES = {**dict.fromkeys(_MAC_LAYERS, "product"), "Reorder": "layout", "Transpose": "layout", "Convert": "convert"}
_SILENT = ("Const", "Input", "Output", "Result")  # held or handed over, not executed
_FUSION_MARKS = re.compile("(/WithoutBiases|/DequantizationMultiply|/DequantizationSubtract)+$")
_WARM_UP_RUNS = 3
# Along the depth of a layer whose weights alone are INT8, so many activations share a scale; the engine's own choice.
# A larger group was no faster and less accurate (luong_2x512: 49.6 dB at 256, 51.5 at 32).
_GROUP = 32
_NEWEST_OPSET = 26
_RUNNING = native("OpenVINO", "running the graph")


class OpenVinoSession:
    """One graph compiled by OpenVINO, with its own inference request."""

    def __init__(self, compiled: Any, names: Sequence[str]) -> None:
        self._request = compiled.create_infer_request()
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        # A compiled output answers to the names of everything that was fused into it: the graph's own is meant.
        ports = zip(compiled.outputs, names, strict=True)
        self.outputs = tuple(replace(_spec(port), name=name) for port, name in ports)
        self._names = [spec.name for spec in self.outputs]
        self._dtypes = [(spec.name, _dtype(spec.dtype)) for spec in self.inputs]

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run once; see :class:`edgeattn.program.Session`. Outputs are copies, safe to keep."""
        try:
            given = {spec.name: feeds[spec.name] for spec in self.inputs}
            if any(kind is None or given[name].dtype != kind for name, kind in self._dtypes):
                raise TypeError("OpenVINO would convert the input silently")
            with _RUNNING:
                results = self._request.infer(given, share_inputs=True, share_outputs=True)
            return {name: results[i].copy() for i, name in enumerate(self._names)}
        except Exception as error:
            raise explain_failure("openvino", error, self.inputs, feeds) from error


def _dtype(name: str) -> np.dtype[Any] | None:
    """NumPy's type of that name; None for one that NumPy does not hold, such as bf16."""
    try:
        return np.dtype(name)
    except TypeError:
        return None


class OpenVinoBackend:
    """The OpenVINO engine."""

    name = "openvino"
    extra = "openvino"
    devices = ("cpu",)
    joins = False
    profiled = False
    typed = False
    knobs = ()
    qdq = QdqDialect(
        unsigned=True,
        signed_elsewhere=True,
        requantize_conv_outputs=True,
        dynamic="engine",
        group=_GROUP,
    )

    def probe(self) -> Availability:
        """Whether ``openvino`` imports, and its version."""
        return probe_package("openvino", self.extra)

    def executes(self, options: Options) -> Availability:
        """On any CPU."""
        return self.probe()

    def unsupported(self, program: Program, options: Options) -> list[Refusal]:
        """Opsets newer than were checked, and precisions this CPU would not compute in."""
        refusals = newer_opsets(program, _NEWEST_OPSET)
        if options.precision in ("fp16", "bf16") and not self._computes(options):
            why = f"this CPU does not compute in {options.precision}; OpenVINO would fall back to fp32"
            refusals.append(Refusal("*", "", why, "use precision fp32 or int8 here"))
        return refusals

    def _computes(self, options: Options) -> bool:
        capabilities = _core().get_property(options.device.upper(), "OPTIMIZATION_CAPABILITIES")
        return options.precision.upper() in capabilities

    def compile(self, program: Program, options: Options, out: Path) -> Engine:
        """Convert each graph to IR, save it, and record what the compiled model reports."""
        import openvino as ov

        started = time.perf_counter()
        files, effective = {}, {}
        for graph, model in program.graphs.items():
            files[graph] = f"{graph}.xml"
            ir = _thawed(program.ir[graph]) if graph in program.ir else _read(model)
            with native("OpenVINO", "saving the graph"):
                ov.save_model(ir, out / files[graph], compress_to_fp16=False)
            compiled = _compile(_core().read_model(out / files[graph]), options)
            effective[graph] = {
                "device": ",".join(compiled.get_property("EXECUTION_DEVICES")).lower(),
                "precision": precision_summary(_products(compiled, model), macs_by_node(model)),
                "settings": {
                    "threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),
                    "inference_precision": compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
                    "hint": "LATENCY",
                },
            }
        return Engine(self.name, options, out, files, effective, time.perf_counter() - started)

    def open(self, file: Path, options: Options) -> OpenVinoSession:
        """Open an engine file."""
        try:
            model = _core().read_model(file)
        except Exception as error:
            raise refusal("openvino", error) from error
        return OpenVinoSession(_compile(model, options), [port.get_any_name() for port in model.outputs])

    def load(self, model: onnx.ModelProto, options: Options) -> OpenVinoSession:
        """Open a graph that is in memory."""
        return OpenVinoSession(_compile(_read(model), options), [value.name for value in model.graph.output])

    def thaw(self, model: onnx.ModelProto) -> Any:
        """The graph as OpenVINO's own model, for tools that work on it."""
        return _read(model)

    def freeze(self, model: Any) -> tuple[bytes, bytes]:
        """OpenVINO's own model as ``(xml, bin)``, weights as they are."""
        import openvino as ov

        with tempfile.TemporaryDirectory() as folder, native("OpenVINO", "saving the graph"):
            xml = Path(folder) / "model.xml"
            ov.save_model(model, xml, compress_to_fp16=False)
            return xml.read_bytes(), xml.with_suffix(".bin").read_bytes()

    def load_ir(self, ir: tuple[bytes, bytes], options: Options) -> OpenVinoSession:
        """Open what ``freeze`` gave."""
        model = _thawed(ir)
        return OpenVinoSession(_compile(model, options), [port.get_any_name() for port in model.outputs])

    def profile(
        self, model: onnx.ModelProto, options: Options, feeds: Arrays | None = None, runs: int = 0
    ) -> list[Executed]:
        """The compiled model, timed by OpenVINO's own counters; see :class:`Backend`."""
        compiled = _compile(_read(model), options, counted=feeds is not None)
        if feeds is None:
            return _executed(compiled, model)
        session = OpenVinoSession(compiled, [value.name for value in model.graph.output])
        cold, every = (_counted(session, compiled, model, feeds, n) for n in (_WARM_UP_RUNS, max(runs, 1)))
        # A counter holds the mean of all runs so far, and the first few are no measure.
        early = {node.node: node.milliseconds * _WARM_UP_RUNS for node in cold}
        total = _WARM_UP_RUNS + max(runs, 1)
        return [
            replace(n, milliseconds=max(0.0, n.milliseconds * total - early.get(n.node, 0.0)) / max(runs, 1))
            for n in every
        ]

    def variants(self, options: Options) -> list[Mapping[str, Any]]:
        """One thread; bf16 around INT8 on a CPU that computes in it."""
        around = options.precision == "int8" and options.around != "bf16"
        there = around and self._computes(replace(options, precision="bf16"))
        return [*fewer_threads(options), *([{"around": "bf16"}] if there else [])]


def _core() -> Any:
    try:
        import openvino as ov
    except ImportError as error:
        raise MissingPackage("openvino", "openvino") from error
    return ov.Core()


def _read(model: onnx.ModelProto) -> Any:
    """The graph as OpenVINO's; weights that lie outside become constants over the mapped files."""
    from edgeattn import outside

    weights = {tensor.name: outside.array(tensor) for tensor in outside.tensors(model)}
    try:
        with native("OpenVINO", "reading the graph"):
            read = _core().read_model(outside.hollow(model).SerializeToString())
            return extremes_apart(fake_quantized(_with_constants(read, weights)))
    except Exception as error:
        raise refusal("openvino", error) from error


def _thawed(ir: tuple[bytes, bytes]) -> Any:
    with native("OpenVINO", "reading the graph"):
        return _core().read_model(*ir)


def _with_constants(model: Any, weights: Mapping[str, Array]) -> Any:
    """The model with the parameters that stand for ``weights`` replaced by constants that share their memory."""
    import openvino as ov

    for parameter in model.get_parameters() if weights else ():
        name = parameter.get_friendly_name()
        if name in weights:
            constant = ov.op.Constant(_shareable(weights[name]), shared_memory=True)
            constant.set_friendly_name(name)
            for reader in parameter.output(0).get_target_inputs():
                reader.replace_source_output(constant.output(0))
            model.remove_parameter(parameter)
    return model


def _shareable(array: Array) -> Array:
    """The same memory, marked as writable: OpenVINO asks for that and does not write."""
    whole: Any = array
    while isinstance(whole, np.ndarray):
        whole = whole.base
    room = np.frombuffer(whole, np.uint8)
    start = array.__array_interface__["data"][0] - room.__array_interface__["data"][0]
    shared: Array = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    return shared


def _pinned(model: Any, options: Options) -> str:
    """The precision to pin; of a graph that says itself what computes in BF16, its own: the FP32 in it would go."""
    asked = options.around if options.precision == "int8" else options.precision
    typed = any(port.get_element_type().get_type_name() == "bf16" for op in model.get_ops() for port in op.outputs())
    return "dynamic" if asked == "bf16" and typed else _PINNED[asked]


def _compile(model: Any, options: Options, counted: bool = False) -> Any:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _pinned(model, options),
        "INFERENCE_NUM_THREADS": options.threads or usable_cores(),
        **({"PERF_COUNT": True} if counted else {}),
        # By default the engine quantizes activations wherever a weight is INT8, whatever precision is asked for.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP if options.precision == "int8" else 0,
    }
    try:
        with native("OpenVINO", "compiling the graph"):
            return _core().compile_model(model, options.device.upper(), settings)
    except MissingPackage:
        raise
    except Exception as error:
        raise refusal("openvino", error) from error


def _products(compiled: Any, model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """``(node, precision)`` of every multiply-accumulate layer in the compiled model, by the names in ``model``."""
    for node in _executed(compiled, model):
        if node.role == "product":
            yield next(iter(node.stands_for), node.node), node.precision


def _counted(
    session: OpenVinoSession, compiled: Any, model: onnx.ModelProto, feeds: Arrays, runs: int
) -> list[Executed]:
    """What was executed, with the counters after ``runs`` more runs."""
    for _ in range(runs):
        session.run(feeds)
    return _executed(compiled, model, ran=True)


def _executed(compiled: Any, model: onnx.ModelProto, ran: bool = False) -> list[Executed]:
    """The layers of a compiled model, in the names of the graph it was made from; once it ran, those that did."""
    given = Given(model)
    nodes, reads, idle = [], {}, set()
    rounds = int(compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE")) > 0
    for op in compiled.get_runtime_model().get_ordered_ops():
        told = op.get_rt_info()
        info = {key: told[key].astype(str) for key in _TOLD if key in told}
        if info.get("layerType", "Const") in _SILENT:
            continue
        name = op.get_friendly_name()
        reads[name] = [port.get_source_output().get_node().get_friendly_name() for port in op.inputs()]
        if (
            info.get("runtimePrecision") == "i8"
            and not rounds
            and op.inputs()
            and op.get_input_element_type(0).is_real()
        ):
            info["runtimePrecision"] = "f32"  # its weights alone are INT8
        nodes.append(_layer(name, info, given))
        if ran and info.get("execTimeMcs") == "not_executed":
            idle.add(name)
    found = placed(given.recurrent(nodes, _RECURRENT), reads)
    return [node for node in found if node.node not in idle]


_TOLD = ("layerType", "runtimePrecision", "outputPrecisions", "primitiveType", "execTimeMcs", "originalLayersNames")


def _layer(name: str, info: Mapping[str, str], given: Given) -> Executed:
    # The first name is the layer's own; what was fused into it may have left its mark there.
    known = given.find(_FUSION_MARKS.sub("", part) for part in info.get("originalLayersNames", "").split(","))
    passes = info["layerType"] == "FakeQuantize" or given.only_quantizes(known)
    role = "quantize" if passes else _ROLES.get(info["layerType"], "other")
    spent, precision = info.get("execTimeMcs", ""), info.get("runtimePrecision", "")
    if role == "layout" and info.get("outputPrecisions", precision) != precision:
        role = "convert"
    return Executed(
        name,
        info["layerType"],
        role,
        _LABELS.get(precision, precision),
        info.get("primitiveType", ""),
        int(spent) / 1000 if spent.isdecimal() else 0.0,
        given.product(known) if role == "product" else known,
    )


def _spec(port: Any) -> TensorSpec:
    shape = tuple("?" if d.is_dynamic else d.get_length() for d in port.get_partial_shape())
    kind = port.get_element_type().get_type_name()
    return TensorSpec(_name(port), _DTYPES.get(kind, kind), shape)


def _name(port: Any) -> str:
    """What the graph calls its input or output; where OpenVINO drops an Identity or a Cast, it has several names."""
    called = str(port.get_node().get_friendly_name()).partition("/sink_port_")[0]
    return called if called in port.get_names() else str(port.get_any_name())


BACKEND = OpenVinoBackend()
