"""ONNX Runtime on the CPU: runs the portable ONNX as it is; graph optimisation happens when it is opened.

Engine file: ``<graph>.onnx``. Effective precision is read from the graph ONNX Runtime optimised for itself
(its QLinearConv, QGemm … are its own business and are never saved into a bundle).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.backends import Availability, Engine, Executed, Knobs, Options, Refusal
from edgeattn.backends import _onnxruntime_layers as layers
from edgeattn.backends._common import fewer_threads, newer_opsets, precision_summary, probe_package, usable_cores
from edgeattn.backends._onnxruntime_session import SLOWER_FUSED, OnnxRuntimeSession, in_memory, inference_session
from edgeattn.graphs import macs_by_node
from edgeattn.program import Program, QdqDialect

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Arrays

_NEWEST_OPSET = 26


class OnnxRuntimeBackend:
    """The ONNX Runtime engine."""

    name = "onnxruntime"
    extra = "onnxruntime"
    devices = ("cpu",)
    joins = False
    kit = False
    profiled = False
    bucketed = False
    typed = False
    reads_loops = True
    knobs = Knobs
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
                "precision": precision_summary(
                    layers.products(out / files[graph], options, model), macs_by_node(model)
                ),
                "settings": {
                    "threads": options.threads or usable_cores(),
                    "graph_optimization": f"all but {SLOWER_FUSED[0]}",
                },
            }
        return Engine(self.name, options, out, files, effective, time.perf_counter() - started)

    def open(self, file: Path, options: Options) -> OnnxRuntimeSession:
        """Open an engine file."""
        return OnnxRuntimeSession(inference_session(str(file), options))

    def load(self, model: onnx.ModelProto, options: Options) -> OnnxRuntimeSession:
        """Open a graph that is in memory; weights that lie outside are mapped from there."""
        return OnnxRuntimeSession(inference_session(in_memory(model), options))

    def profile(
        self, model: onnx.ModelProto, options: Options, feeds: Arrays | None = None, runs: int = 0
    ) -> list[Executed]:
        """The graph ONNX Runtime made for itself, timed by its own profiler; see :class:`Backend`."""
        return layers.profile(model, options, feeds, runs)

    def variants(self, options: Options) -> list[Mapping[str, Any]]:
        """One thread."""
        return fewer_threads(options)


BACKEND = OnnxRuntimeBackend()
