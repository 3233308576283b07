"""What TensorRT and TensorRT for RTX share as engines; see their own files for what differs.

Precision lives in the graph: a graph in FP32 is built in FP32 whatever is asked for, so asking for FP16 is refused
until the graph says so (``edgeattn quantize --scheme fp16``). What runs is read back from the builder's list of layers.
"""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn import profile as profiles
from edgeattn import rounding
from edgeattn.backends import Availability, Engine, Executed, Options, Refusal
from edgeattn.backends import _nvidia as nvidia
from edgeattn.backends import _tensorrt_plan as plans
from edgeattn.backends._common import precision_summary, probe_package
from edgeattn.backends._knobs import Knobs
from edgeattn.backends._tensorrt_build import Built, Order, build, parsed
from edgeattn.backends._tensorrt_layers import completed, executed, listed, products
from edgeattn.backends._tensorrt_load import LoadedSession, sizes_of, span_for
from edgeattn.backends._tensorrt_settings import Settings
from edgeattn.backends._tensorrt_versions import Version
from edgeattn.capabilities import findings
from edgeattn.graphs import input_specs, macs_by_node, output_specs
from edgeattn.program import Program, QdqDialect

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from edgeattn.profile import Bucket
    from edgeattn.program import Arrays, Session

_HALVES = ("fp16", "bf16")


class TensorRtBackend(ABC):
    """An engine of the TensorRT family; subclasses name the package and configure the builder."""

    name = ""
    extra = ""
    title = ""
    devices: tuple[str, ...] = ()
    joins = False
    kit = False
    profiled = True
    bucketed = False
    typed = True
    knobs: type[Knobs] = Knobs
    teller = "the builder's list of layers"
    qdq = QdqDialect(dynamic="")

    @abstractmethod
    def library(self) -> Any:
        """The package.

        Raises:
            MissingPackage: with the install line.
        """

    @abstractmethod
    def version(self, options: Options) -> Version:
        """The row of the table of differences for the version that is here."""

    @abstractmethod
    def capabilities(self, options: Options) -> tuple[str, ...]:
        """The compute capabilities that are built for; none where it is this machine's."""

    @abstractmethod
    def known_as(self, options: Options) -> str:
        """What :func:`edgeattn.capabilities.findings` calls the version and devices that are built for."""

    @abstractmethod
    def configure(self, config: Any, options: Options) -> Any:
        """Set on a builder's configuration what is special about the engine; the timing cache, or None."""

    def probe(self) -> Availability:
        """Whether the package imports, and its version."""
        return probe_package(self.name, self.extra)

    def executes(self, options: Options) -> Availability:
        """Where the GPU is one that the engine was built for."""
        here = self.probe()
        return nvidia.runs(self.capabilities(options)) if here.available else here

    def unsupported(self, program: Program, options: Options) -> list[Refusal]:
        """What the version's parser and builder would not take, or would build as something else."""
        found = findings(program.graphs, self.known_as(options), options.precision)
        refusals = [Refusal(f.graph, f.node, f.reason, f.hint) for f in found if f.check != "precision"]
        if program.ir:
            hint = "quantize with int8-static, which is the portable one"
            refusals.append(Refusal("*", "", "the program was made for OpenVINO alone", hint))
        if options.precision in _HALVES:
            why = f"it computes in what the graph says, and nothing in this graph is {options.precision}"
            hint = f"cast it first: edgeattn quantize --scheme {options.precision}, `quantize:` in a recipe"
            typed = {graph: rounding.types_in(model) for graph, model in program.graphs.items()}
            if typed and not any(options.precision in kinds for kinds in typed.values()):
                refusals.append(Refusal(next(iter(typed)), "", why, hint))
        return refusals

    def compile(self, program: Program, options: Options, out: Path) -> Engine:
        """Build a plan for each graph, and record what the builder says that it made."""
        started = time.perf_counter()
        buckets = profiles.of(program, options.profiles)
        files, effective = {}, {}
        for graph, model in program.graphs.items():
            built = self._built(model, options, buckets)
            files[graph] = f"{graph}.plan"
            known = self._facts(built, model, options, buckets)
            plans.write(built.plan, out / files[graph], known)
            layers = self._executed(built, model, options)
            strongly = not self.version(options).precision
            ran = completed(products(layers, model), model) if strongly else products(layers, model)
            (out / f"layers.{graph}.json").write_text(listed(layers), encoding="utf-8")
            if built.cache:
                (out / "timing.cache").write_bytes(built.cache)
            effective[graph] = {
                "device": options.device,
                "precision": precision_summary(ran, macs_by_node(model)),
                "settings": {
                    "tf32": False,
                    "precision_told_by": self.teller if layers else "the graph's types",
                    "typed": "strongly" if strongly else "weakly",
                    "profiles": [{name: list(span) for name, span in bucket.items()} for bucket in buckets],
                    **options.settings,
                },
                "build": {"seconds": built.seconds, "peak_bytes": built.peak_bytes, "bytes": known.bytes},
                "plan": {"sha256": known.sha256, "version": known.version, "capabilities": list(known.capabilities)},
            }
        return Engine(self.name, options, out, files, effective, time.perf_counter() - started)

    def _built(self, model: onnx.ModelProto, options: Options, buckets: Sequence[Bucket]) -> Built:
        return build(model, self._order(options, buckets))

    def _order(self, options: Options, buckets: Sequence[Bucket]) -> Order:
        return Order(
            self.library(),
            self.title,
            self.version(options),
            options.precision,
            buckets,
            lambda config: self.configure(config, options),
        )

    def _facts(self, built: Built, model: onnx.ModelProto, options: Options, buckets: Sequence[Bucket]) -> plans.Facts:
        asked = Settings.of(options)
        weights = hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest() if asked.strip else ""
        return plans.Facts(
            self.name,
            str(self.library().__version__),
            hashlib.sha256(built.plan).hexdigest(),
            len(built.plan),
            self.capabilities(options) or (nvidia.capabilities()[:1] if asked.hardware != "ampere_plus" else ()),
            movable=asked.version_compatible,
            stripped=asked.strip,
            profiles=tuple(buckets),
            tensors={s.name: tuple(profiles.dimensions(s)) for s in (*input_specs(model), *output_specs(model))},
            weights=weights,
        )

    def _executed(self, built: Built, model: onnx.ModelProto, options: Options) -> list[Executed]:
        """The layers of what was built; empty where they cannot be told."""
        return executed(built.layers, model)

    def open(self, file: Path, options: Options) -> Session:
        """Open an engine file: its bytes are checked here before the library sees them."""
        from edgeattn.backends._tensorrt_session import opened

        plan, facts = plans.read(file, self.name, str(self.library().__version__))
        nvidia.require(facts.capabilities, self.title)
        return opened(self.library(), plan, facts, self.title, plans.weights(file, facts))

    def load(self, model: onnx.ModelProto, options: Options) -> Session:
        """Open a graph that is in memory: built for the profiles that were asked for, or for what it is run on."""
        nvidia.require(self.capabilities(options), self.title)
        whole = replace(options, settings={**options.settings, "strip": False})
        parsed(model, self._order(whole, ()))
        dynamic = profiles.dynamic(Program({"main": model}))
        known = [bucket for bucket in options.profiles or ({},) if bucket.keys() >= set(dynamic)]
        return LoadedSession(self.name, model, lambda bucket: self._opened(model, whole, bucket), known)

    def _opened(self, model: onnx.ModelProto, options: Options, bucket: Bucket) -> Session:
        from edgeattn.backends._tensorrt_session import opened

        built = self._built(model, options, (bucket,))
        return opened(self.library(), built.plan, self._facts(built, model, options, (bucket,)), self.title)

    def profile(
        self, model: onnx.ModelProto, options: Options, feeds: Arrays | None = None, runs: int = 0
    ) -> list[Executed]:
        """The layers that the builder made; timed by the engine's own profiler where it runs.

        Built for the sizes of ``feeds``; without any, for the profiles that were asked for.
        """
        from edgeattn.backends._tensorrt_session import timed

        if feeds is None:
            built = self._built(model, options, profiles.of(Program({"main": model}), options.profiles))
            return self._executed(built, model, options)
        nvidia.require(self.capabilities(options), self.title)
        bucket = {name: span_for(size) for name, size in sizes_of(input_specs(model), feeds).items()}
        built = self._built(model, options, (bucket,))
        facts = self._facts(built, model, options, (bucket,))
        return timed(self.library(), built.plan, facts, self._executed(built, model, options), feeds, runs, self.title)

    def variants(self, options: Options) -> list[Mapping[str, Any]]:
        """None: the builder measures for itself."""
        return []
