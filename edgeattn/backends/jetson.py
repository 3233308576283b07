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

from edgeattn.backends import Availability, Engine, Executed, Knobs, Options, Refusal, rounded
from edgeattn.backends._common import precision_summary
from edgeattn.backends._tensorrt_layers import declared
from edgeattn.capabilities import findings
from edgeattn.downgrade import to_opset_17
from edgeattn.errors import Unsupported
from edgeattn.graphs import macs_by_node, opset_of
from edgeattn.kit.board.versions import JETPACKS, ROWS, Row
from edgeattn.preflight import read_model
from edgeattn.program import Program, QdqDialect

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Arrays, Session

_CPU = "cpu"  # no device of ours: where a written graph is judged, never where an engine is


class JetsonBackend:
    """Writes the graphs of a build kit."""

    name = "jetson"
    extra = "export"
    devices = ("jp6.2", *(name for name in JETPACKS if name != "jp6.2"))
    joins = False
    kit = True
    profiled = True
    bucketed = False
    typed = True
    knobs = Knobs
    qdq = QdqDialect(dynamic="")

    def probe(self) -> Availability:
        """Always here: a kit is written, not built."""
        return Availability(True, version="kit")

    def executes(self, options: Options) -> Availability:
        """Never here: the engine is built and run on the board."""
        why = f"its engine is built and run on a board with {_jetpack(options)}"
        return Availability(False, why=why, hint="take the kit there and run python3 build.py, then python3 verify.py")

    def unsupported(self, program: Program, options: Options) -> list[Refusal]:
        """What the board's TensorRT would not take of the graphs as they would be written."""
        if program.ir:
            hint = "quantize with int8-static, which is the portable one"
            return [Refusal("*", "", "the program was made for OpenVINO alone", hint)]
        written: dict[str, onnx.ModelProto] = {}
        refusals = []
        for graph, model in program.graphs.items():
            try:
                written[graph] = lowered(model, _row(options))
            except Unsupported as refused:
                why = f"TensorRT {_row(options).version} reads opset 17, and {refused.what}"
                refusals.append(Refusal(graph, refused.where, why, "take a board with JetPack 6.1 or later"))
        found = findings(written, f"jetson:{options.device}", options.precision)
        return [*refusals, *(Refusal(f.graph, f.node, f.reason, f.hint) for f in found)]

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
    result.ir_version = min(result.ir_version, max(8, onnx.helper.find_min_ir_version_for(result.opset_import, True)))
    return result


def _row(options: Options) -> Row:
    return ROWS[JETPACKS[options.device]]


def _jetpack(options: Options) -> str:
    return f"JetPack {options.device.removeprefix('jp')}"


BACKEND = JetsonBackend()
