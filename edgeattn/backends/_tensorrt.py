"""What TensorRT and TensorRT for RTX share as engines; see their own files for what differs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn import rounding
from edgeattn.backends import Availability, Engine, Executed, Options, Refusal
from edgeattn.backends import _nvidia as nvidia
from edgeattn.backends._common import newer_opsets, precision_summary, probe_package
from edgeattn.backends._tensorrt_build import Built, Sizes, build
from edgeattn.backends._tensorrt_layers import executed, products
from edgeattn.errors import MissingPackage, Unsupported
from edgeattn.graphs import macs_by_node, program_inputs
from edgeattn.program import Program, QdqDialect, TensorSpec

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Arrays, Session

_HALVES = ("fp16", "bf16")
_NEWEST_OPSET = 25
"""What the parser of TensorRT 11 and of TensorRT for RTX 1.7 reads (onnx-tensorrt, docs/operators.md)."""


class TensorRtBackend:
    """An engine of the TensorRT family; subclasses name the package and configure the builder."""

    name = ""
    extra = ""
    title = ""
    devices: tuple[str, ...] = ()
    joins = False
    qdq = QdqDialect(dynamic="")

    def probe(self) -> Availability:
        """Whether the package imports, and its version."""
        return probe_package(self.name, self.extra)

    def executes(self, options: Options) -> Availability:
        """Where the GPU is one that the engine was built for."""
        here = self.probe()
        return nvidia.runs(self.capabilities(options)) if here.available else here

    def capabilities(self, options: Options) -> tuple[str, ...]:
        """The compute capabilities that are asked for; none where it is this machine's."""
        raise NotImplementedError

    def library(self) -> Any:
        """The package."""
        raise NotImplementedError

    def configure(self, config: Any, options: Options) -> None:
        """Set on a builder's configuration what is special about the engine."""
        raise NotImplementedError

    def unsupported(self, program: Program, options: Options) -> list[Refusal]:
        """Opsets, operators and precisions that would not build, or would build as something else."""
        refusals = newer_opsets(program, _NEWEST_OPSET)
        if program.ir:
            hint = "quantize with int8-static, which is the portable one"
            refusals.append(Refusal("*", "", "the program was made for OpenVINO alone", hint))
        if options.precision in _HALVES:
            refusals += [
                Refusal(
                    graph, "", f"{self.title} computes what the graph says, and that is not {options.precision}", hint
                )
                for graph, model in program.graphs.items()
                if options.precision not in rounding.types_in(model)
                for hint in [f"cast it first: edgeattn quantize --scheme {options.precision}"]
            ]
        return refusals

    def compile(self, program: Program, options: Options, out: Path) -> Engine:
        """Build a plan for each graph, and record what the builder says that it made."""
        started = time.perf_counter()
        sizes = spans(program)
        files, effective = {}, {}
        for graph, model in program.graphs.items():
            built = self._built(model, options, sizes)
            files[graph] = f"{graph}.plan"
            (out / files[graph]).write_bytes(built.plan)
            effective[graph] = {
                "device": options.device,
                "precision": precision_summary(products(executed(built.layers, model)), macs_by_node(model)),
                "settings": {"tf32": False, "typed": "strongly", "profile": {k: list(v) for k, v in sizes.items()}},
                "build": {"seconds": built.seconds, "peak_bytes": built.peak_bytes, "bytes": len(built.plan)},
            }
        return Engine(self.name, options, out, files, effective, time.perf_counter() - started)

    def _built(self, model: onnx.ModelProto, options: Options, sizes: Mapping[str, Sizes]) -> Built:
        def configure(config: Any) -> None:
            self.configure(config, options)

        return build(self.library(), model, sizes, configure, self.title)

    def open(self, file: Path, options: Options) -> Session:
        """Open an engine file."""
        raise self._not_here(options)

    def load(self, model: onnx.ModelProto, options: Options) -> Session:
        """Open a graph that is in memory."""
        raise self._not_here(options)

    def _not_here(self, options: Options) -> Unsupported:
        here = self.executes(options)
        return Unsupported(here.why or "does not run engines yet", where=self.title, hint=here.hint)

    def profile(
        self, model: onnx.ModelProto, options: Options, feeds: Arrays | None = None, runs: int = 0
    ) -> list[Executed]:
        """Nothing yet."""
        return []

    def variants(self, options: Options) -> list[Mapping[str, Any]]:
        """The builder chooses."""
        return []


def spans(program: Program) -> dict[str, Sizes]:
    """Sizes that each dynamic dimension takes over the cases a program is judged on: least, typical, largest."""
    if program.reference is None:
        return {}
    inputs = {spec.name: spec for spec in program_inputs(program)}
    seen: dict[str, list[int]] = {}
    for case in (program.reference.typical, *program.reference.cases):
        for name, value in case.feeds.items():
            for dim, size in zip(_names(inputs[name]), value.shape, strict=True) if name in inputs else ():
                if isinstance(dim, str):
                    seen.setdefault(dim, []).append(size)
    return {name: (min(sizes), sizes[0], max(sizes)) for name, sizes in seen.items()}


def _names(spec: TensorSpec) -> list[int | str]:
    """Its dimensions; a dynamic one without a name is called after its place."""
    return [f"{spec.name}:{axis}" if dim in ("", "?") else dim for axis, dim in enumerate(spec.shape)]


def missing(name: str, extra: str) -> MissingPackage:
    """The package is not installed."""
    return MissingPackage(name, extra)
