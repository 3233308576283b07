"""jetson: a build kit for NVIDIA Jetson boards, whose engines can only be built on the board itself.

What it writes: the graphs in the types they compute in and in an opset that the board's TensorRT reads; around them
(``edgeattn/kits.py``) scripts that build, run, judge and time there, and write a report that ``edgeattn check`` reads.
Devices are JetPack releases, because a release fixes its TensorRT: jp5.1 has 8.5, jp6.0 8.6, jp6.1 and jp6.2 10.3,
jp7.1 10.13, jp7.2 10.16, and jp7.2.2 11.4.
Precision: from TensorRT 10 on networks are strongly typed, and what the graph names is what runs; 8.5 and 8.6 are told
which types are allowed, and choose layer by layer. bf16 begins with TensorRT 10.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn import rounding
from edgeattn.backends import Availability, Engine, Executed, Options, Refusal, rounded
from edgeattn.backends._common import newer_opsets, precision_summary
from edgeattn.backends._tensorrt_layers import declared
from edgeattn.downgrade import to_opset_17
from edgeattn.errors import Unsupported
from edgeattn.graphs import histogram, macs_by_node, opset_of
from edgeattn.kit.board.versions import JETPACKS, ROWS, Row
from edgeattn.preflight import read_model
from edgeattn.program import Program, QdqDialect

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Arrays, Session

_CPU = "cpu"  # no device of ours: where a written graph is judged, never where an engine is
_HALVES = ("fp16", "bf16")
_NEVER = ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul")


class JetsonBackend:
    """Writes the graphs of a build kit."""

    name = "jetson"
    extra = "export"
    devices = ("jp6.2", *(name for name in JETPACKS if name != "jp6.2"))
    joins = False
    kit = True
    profiled = True
    typed = True
    knobs = ()
    qdq = QdqDialect(dynamic="")

    def probe(self) -> Availability:
        """Always here: a kit is written, not built."""
        return Availability(True, version="kit")

    def executes(self, options: Options) -> Availability:
        """Never here: the engine is built and run on the board."""
        why = f"its engine is built and run on a board with {_jetpack(options)}"
        return Availability(False, why=why, hint="take the kit there and run python3 build.py, then python3 verify.py")

    def unsupported(self, program: Program, options: Options) -> list[Refusal]:
        """Opsets, operators and precisions that the board's TensorRT does not have."""
        row = _row(options)
        if program.ir:
            hint = "quantize with int8-static, which is the portable one"
            return [Refusal("*", "", "the program was made for OpenVINO alone", hint)]
        refusals = [] if row.opset == 17 else newer_opsets(program, row.opset)
        if options.precision == "bf16" and not row.bf16:
            why = f"TensorRT {row.version} of {_jetpack(options)} has no bfloat16"
            refusals.append(Refusal("*", "", why, "use precision fp16"))
        for graph, model in program.graphs.items():
            refusals += _refused(graph, model, row)
        typed = [rounding.types_in(model) for model in program.graphs.values()]
        if options.precision in _HALVES and typed and not any(options.precision in kinds for kinds in typed):
            why = f"a board computes in what the graph says, and nothing in this graph is {options.precision}"
            hint = f"cast it first: edgeattn quantize --scheme {options.precision}, `quantize:` in a recipe"
            refusals.append(Refusal("*", "", why, hint))
        return refusals

    def compile(self, program: Program, options: Options, out: Path) -> Engine:
        """Write each graph in an opset that the board reads, and say what it declares."""
        from edgeattn import outside

        started = time.perf_counter()
        files, effective = {}, {}
        for graph, model in program.graphs.items():
            files[graph] = f"{graph}.onnx"
            outside.write(lowered(model, _row(options)), out / files[graph])
            effective[graph] = {
                "device": options.device,
                "precision": precision_summary(declared(model), macs_by_node(model)),
                "settings": {
                    "tensorrt": _row(options).version,
                    "precision_told_by": "the graph's types",
                    "typed": "strongly" if _row(options).typed else "weakly",
                },
            }
        return Engine(self.name, options, out, files, effective, time.perf_counter() - started)

    def stand_in(self, options: Options) -> Options:
        """The graphs as they were written, lowered opset and all, open on any CPU; see :func:`open`."""
        return replace(options, device=_CPU)

    def open(self, file: Path, options: Options) -> Session:
        """A written graph in the engine that judges rewrites, FP16 and BF16 rounded; a board's engine is refused."""
        if options.device != _CPU:
            raise self._not_here(options)
        return rounded(Program({"main": read_model(file)}))["main"]

    def load(self, model: onnx.ModelProto, options: Options) -> Session:
        """Refused: see ``executes``."""
        raise self._not_here(options)

    def _not_here(self, options: Options) -> Unsupported:
        here = self.executes(options)
        return Unsupported(here.why, where=f"{self.name}:{options.device}", hint=here.hint)

    def profile(
        self, model: onnx.ModelProto, options: Options, feeds: Arrays | None = None, runs: int = 0
    ) -> list[Executed]:
        """Nothing: the engine is not here."""
        return []

    def variants(self, options: Options) -> list[Mapping[str, Any]]:
        """None: nothing can be measured here."""
        return []


def lowered(model: onnx.ModelProto, row: Row) -> onnx.ModelProto:
    """A copy in an opset that a TensorRT reads, and in the IR version of that opset: older parsers know no newer one.

    Raises:
        Unsupported: an operator that has no form there.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(to_opset_17(model) if opset_of(model) == 18 and row.opset == 17 else model)
    result.ir_version = min(result.ir_version, max(8, onnx.helper.find_min_ir_version_for(result.opset_import)))
    return result


def _refused(graph: str, model: onnx.ModelProto, row: Row) -> list[Refusal]:
    found = []
    known = histogram(Program({graph: model}))
    if dynamic := [op for op in _NEVER if op in known]:
        hint = "quantize with int8-static, whose scales are in the graph"
        found.append(Refusal(graph, "", f"TensorRT has no {', '.join(dynamic)}", hint))
    if row.opset == 17 and opset_of(model) > 17:
        found += _not_lowered(graph, model, row)
    return found


def _not_lowered(graph: str, model: onnx.ModelProto, row: Row) -> list[Refusal]:
    """Why a graph cannot be given in opset 17."""
    if opset_of(model) > 18:
        why = f"opset {opset_of(model)} is newer than {row.opset}, which TensorRT {row.version} reads"
        return [Refusal(graph, "", why, "export with --opset 17")]
    try:
        lowered(model, row)
    except Unsupported as refused:
        why = f"TensorRT {row.version} reads opset 17, and {refused.what}"
        return [Refusal(graph, refused.where, why, "take a board with JetPack 6.1 or later")]
    return []


def _row(options: Options) -> Row:
    return ROWS[JETPACKS[options.device]]


def _jetpack(options: Options) -> str:
    return f"JetPack {options.device.removeprefix('jp')}"


BACKEND = JetsonBackend()
