"""OpenVINO on Intel (and other x86/ARM) CPUs: the graph becomes IR, compiled when it is opened.

Engine files: ``<graph>.xml`` and ``<graph>.bin``, weights uncompressed (saving would halve them to FP16 by
default, which breaks FP32 parity). The inference precision is always pinned, because OpenVINO otherwise picks
bf16 or f16 by itself on CPUs that have it; what really runs is read back from the compiled model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.backends import Availability, Engine, Executed, Options, Refusal
from edgeattn.backends._common import (
    fewer_threads,
    newer_opsets,
    precision_summary,
    probe_package,
    refusal,
    usable_cores,
)
from edgeattn.backends._openvino_layers import executed, products, timed
from edgeattn.backends._openvino_models import core, frozen, read, save, thawed
from edgeattn.backends._openvino_session import OpenVinoSession
from edgeattn.errors import MissingPackage
from edgeattn.graphs import macs_by_node
from edgeattn.phase import native
from edgeattn.program import Program, QdqDialect

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Arrays

_PINNED = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
# Along the depth of a layer whose weights alone are INT8, so many activations share a scale; the engine's own choice.
# A larger group was no faster and less accurate (luong_2x512: 49.6 dB at 256, 51.5 at 32).
_GROUP = 32
_NEWEST_OPSET = 26


class OpenVinoBackend:
    """The OpenVINO engine."""

    name = "openvino"
    extra = "openvino"
    devices = ("cpu",)
    joins = False
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
        capabilities = core().get_property(options.device.upper(), "OPTIMIZATION_CAPABILITIES")
        return options.precision.upper() in capabilities

    def compile(self, program: Program, options: Options, out: Path) -> Engine:
        """Convert each graph to IR, save it, and record what the compiled model reports."""
        started = time.perf_counter()
        files, effective = {}, {}
        for graph, model in program.graphs.items():
            files[graph] = f"{graph}.xml"
            ir = thawed(program.ir[graph]) if graph in program.ir else read(model)
            save(ir, out / files[graph])
            compiled = _compile(core().read_model(out / files[graph]), options)
            effective[graph] = {
                "device": ",".join(compiled.get_property("EXECUTION_DEVICES")).lower(),
                "precision": precision_summary(products(compiled, model), macs_by_node(model)),
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
            model = core().read_model(file)
        except Exception as error:
            raise refusal("openvino", error) from error
        return OpenVinoSession(_compile(model, options), [port.get_any_name() for port in model.outputs])

    def load(self, model: onnx.ModelProto, options: Options) -> OpenVinoSession:
        """Open a graph that is in memory."""
        return OpenVinoSession(_compile(read(model), options), [value.name for value in model.graph.output])

    def thaw(self, model: onnx.ModelProto) -> Any:
        """The graph as OpenVINO's own model, for tools that work on it."""
        return read(model)

    def freeze(self, model: Any) -> tuple[bytes, bytes]:
        """OpenVINO's own model as ``(xml, bin)``, weights as they are."""
        return frozen(model)

    def load_ir(self, ir: tuple[bytes, bytes], options: Options) -> OpenVinoSession:
        """Open what ``freeze`` gave."""
        model = thawed(ir)
        return OpenVinoSession(_compile(model, options), [port.get_any_name() for port in model.outputs])

    def profile(
        self, model: onnx.ModelProto, options: Options, feeds: Arrays | None = None, runs: int = 0
    ) -> list[Executed]:
        """The compiled model, timed by OpenVINO's own counters; see :class:`Backend`."""
        compiled = _compile(read(model), options, counted=feeds is not None)
        return executed(compiled, model) if feeds is None else timed(compiled, model, feeds, runs)

    def variants(self, options: Options) -> list[Mapping[str, Any]]:
        """One thread; bf16 around INT8 on a CPU that computes in it."""
        around = options.precision == "int8" and options.around != "bf16"
        there = around and self._computes(replace(options, precision="bf16"))
        return [*fewer_threads(options), *([{"around": "bf16"}] if there else [])]


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
            return core().compile_model(model, options.device.upper(), settings)
    except MissingPackage:
        raise
    except Exception as error:
        raise refusal("openvino", error) from error


def _pinned(model: Any, options: Options) -> str:
    """The precision to pin; of a graph that says itself what computes in BF16, its own: the FP32 in it would go."""
    asked = options.around if options.precision == "int8" else options.precision
    typed = any(port.get_element_type().get_type_name() == "bf16" for op in model.get_ops() for port in op.outputs())
    return "dynamic" if asked == "bf16" and typed else _PINNED[asked]


BACKEND = OpenVinoBackend()
