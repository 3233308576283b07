"""ONNX's own reference evaluator as an engine: slow, in pure Python and numpy, and the specification's last word.

Engine file: ``<graph>.onnx``. Nothing is optimised, so what the graph says is what runs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.backends import Availability, Engine, Executed, Knobs, Options, Refusal
from edgeattn.backends._common import explain_failure, first_line, newer_opsets, precision_summary, probe_package
from edgeattn.errors import BadInput, EngineFailed
from edgeattn.graphs import MAC_OPS, input_specs, macs_by_node, output_specs
from edgeattn.program import Program, QdqDialect

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array, Arrays

NEWEST_OPSET = 23


class ReferenceSession:
    """One graph in the reference evaluator."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx.reference import ReferenceEvaluator

        self._run: Any = ReferenceEvaluator(model).run
        self.inputs, self.outputs = input_specs(model), output_specs(model)

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run once; see :class:`edgeattn.program.Session`."""
        names = [spec.name for spec in self.outputs]
        # The evaluator computes with any dtype and shape that numpy takes, so what a caller hands over is checked.
        problem = explain_failure("onnx_reference", ValueError(), self.inputs, feeds)
        if isinstance(problem, BadInput):
            raise problem
        try:
            return dict(zip(names, self._run(names, dict(feeds)), strict=True))
        except Exception as error:
            raise explain_failure("onnx_reference", error, self.inputs, feeds) from error


class ReferenceBackend:
    """The reference evaluator as an engine."""

    name = "onnx_reference"
    extra = "export"
    devices = ("cpu",)
    joins = False
    kit = False
    profiled = False
    bucketed = False
    typed = False
    knobs = Knobs
    qdq = QdqDialect()

    def probe(self) -> Availability:
        """Whether ``onnx`` is installed."""
        return probe_package("onnx", self.extra)

    def executes(self, options: Options) -> Availability:
        """On any CPU."""
        return self.probe()

    def unsupported(self, program: Program, options: Options) -> list[Refusal]:
        """Opsets that nobody here has checked."""
        return newer_opsets(program, NEWEST_OPSET)

    def compile(self, program: Program, options: Options, out: Path) -> Engine:
        """Save each graph as it is."""
        import onnx

        started = time.perf_counter()
        effective = {}
        for graph, model in program.graphs.items():
            onnx.save(model, out / f"{graph}.onnx")
            executed = [(n.stands_for[0], n.precision) for n in self.profile(model, options) if n.role == "product"]
            effective[graph] = {
                "device": "cpu",
                "precision": precision_summary(executed, macs_by_node(model)),
                "settings": {"threads": 1},
            }
        files = {graph: f"{graph}.onnx" for graph in program.graphs}
        return Engine(self.name, options, out, files, effective, time.perf_counter() - started)

    def open(self, file: Path, options: Options) -> ReferenceSession:
        """Open an engine file."""
        import onnx

        return self.load(onnx.load(file), options)

    def load(self, model: onnx.ModelProto, options: Options) -> ReferenceSession:
        """Open a graph that is in memory."""
        try:
            return ReferenceSession(model)
        except Exception as error:
            raise EngineFailed(first_line(error), where="onnx_reference") from error

    def profile(
        self, model: onnx.ModelProto, options: Options, feeds: Arrays | None = None, runs: int = 0
    ) -> list[Executed]:
        """What the graph says, untimed: the evaluator has no clock."""
        return [
            Executed(
                node.name,
                node.op_type,
                "product" if node.op_type in MAC_OPS else "other",
                "int8" if node.op_type.endswith("Integer") else "fp32",
                stands_for=(node.name or node.output[0],),
            )
            for node in model.graph.node
        ]

    def variants(self, options: Options) -> list[dict[str, object]]:
        """Nothing to tune."""
        return []


BACKEND = ReferenceBackend()
