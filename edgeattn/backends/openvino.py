"""OpenVINO on CPUs, and on Intel's GPUs and NPUs: the graph becomes IR, compiled for the device when it is opened.

Targets: ``openvino:cpu``, ``:gpu`` (``:gpu.1``), ``:npu``, ``:auto`` or ``:auto:gpu,cpu`` (the first that is here),
``:hetero:npu,cpu`` (each layer on the first that takes it). Where the device is not here the IR is built all the same.

Engine files: ``<graph>.xml`` and ``<graph>.bin``, weights uncompressed (saving would halve them to FP16 by
default, which breaks FP32 parity). With ``buckets`` one ``.xml`` a length and ``<graph>.json``; by request ``.blob``,
the compiled model for this machine alone. The inference precision is always pinned, because OpenVINO otherwise picks
bf16 or f16 by itself on CPUs that have it; what really runs is read back from the compiled model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.backends import Availability, Engine, Executed, Options, Refusal
from edgeattn.backends import _openvino_blob as blob
from edgeattn.backends import _openvino_buckets as buckets
from edgeattn.backends import _openvino_devices as named
from edgeattn.backends._common import (
    fewer_threads,
    newer_opsets,
    not_compiled,
    precision_summary,
    probe_package,
    refusal,
)
from edgeattn.backends._openvino_layers import executed, products, timed
from edgeattn.backends._openvino_models import core, frozen, read, save, thawed
from edgeattn.backends._openvino_session import OpenVinoSession
from edgeattn.backends._openvino_settings import GROUP, compiled, in_force, planned, settings
from edgeattn.backends._openvino_shapes import not_static
from edgeattn.backends._openvino_state import StatefulSession, make_stateful, noted, pairs
from edgeattn.capabilities import _openvino_names as names
from edgeattn.graphs import macs_by_node
from edgeattn.program import Program, QdqDialect, Session

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Arrays

_NEWEST_OPSET = 26


class OpenVinoBackend:
    """The OpenVINO engine."""

    name = "openvino"
    extra = "openvino"
    devices = (*names.SINGLE, *names.SEVERAL)
    joins = False
    kit = False
    offers = frozenset({"hint", "buckets", "stateful", "blob"})
    profiled = False
    typed = False
    knobs = ()
    qdq = QdqDialect(
        unsigned=True,
        signed_elsewhere=True,
        requantize_conv_outputs=True,
        light_gates=True,
        dynamic="engine",
        group=GROUP,
    )

    def probe(self) -> Availability:
        """Whether ``openvino`` imports, and its version."""
        return probe_package("openvino", self.extra)

    def parse_device(self, asked: str, target: str) -> str:
        """``hetero:NPU,CPU`` in its one spelling; see :mod:`edgeattn.capabilities._openvino_names`."""
        return names.parse(asked, target)

    def executes(self, options: Options) -> Availability:
        """Where every device that is named is here; of ``auto``'s, one of them."""
        return named.availability(options.device)

    def stand_in(self, options: Options) -> Options | None:
        """The IR of a missing device opens on the CPU, in FP32 around what is INT8."""
        precision = "int8" if options.precision == "int8" else "fp32"
        return replace(options, device="cpu", precision=precision, around="fp32", blob=False)

    def unsupported(self, program: Program, options: Options) -> list[Refusal]:
        """Opsets newer than were checked, precisions the device would not compute in, shapes an NPU would not take."""
        refusals = newer_opsets(program, _NEWEST_OPSET) + not_static(program, options)
        if options.blob and options.device.partition(":")[0] in names.SEVERAL:
            refusals.append(Refusal("*", "", "a blob is for one device", "name it, like openvino:gpu"))
        elif options.blob and not self.executes(options).available:
            refusals.append(Refusal("*", "", "a blob is compiled by the device, which is not here", "compile it there"))
        for device in named.asked_for(options.device, options.precision):
            if told := names.replaced(device, options.precision, named.look(device).computes):
                refusals.append(Refusal("*", "", *told))
        return refusals

    def compile(self, program: Program, options: Options, out: Path) -> Engine:
        """Convert each graph to IR, save it, and record what the compiled model reports."""
        started = time.perf_counter()
        files, effective = {}, {}
        for graph, model in program.graphs.items():
            ir = thawed(program.ir[graph]) if graph in program.ir else read(model)
            states = pairs(program.wiring, graph) if _keeps_state(options) else {}
            if states:
                make_stateful(ir, states)
            if options.buckets and buckets.lengths(model):
                files[graph] = buckets.write(ir, model, options.buckets, out, graph)
            else:
                files[graph] = f"{graph}.xml"
                save(ir, out / files[graph])
            effective[graph] = self._reported(model, options, out / files[graph]) | (
                {"states": states} if states else {}
            )
        return Engine(self.name, options, out, files, effective, time.perf_counter() - started)

    def _reported(self, model: onnx.ModelProto, options: Options, file: Path) -> dict[str, Any]:
        """What is known of an engine file: of its largest bucket, where it has several."""
        opened = _models(file)
        xml, ir = list(opened.items())[-1]
        macs = macs_by_node(model)
        if not self.executes(options).available:
            told = planned(settings(ir, options))
            line = f"ov.Core().compile_model('{xml.name}', '{named.called(options.device)}', {settings(ir, options)})"
            return {"device": options.device, "precision": not_compiled(macs), "settings": told, "compile_there": line}
        built = compiled(ir, options)
        found = in_force(ir, built, options) | {
            "precision": precision_summary(products(built, model, options.precision == "int8"), macs)
        }
        if options.blob:
            found["blob"] = {p.name: blob.write(compiled(m, options), m, options, p) for p, m in opened.items()}
        return found

    def open(self, file: Path, options: Options) -> Session:
        """Open an engine file; its blob with ``options.blob``."""
        try:
            opened = _models(file)
        except (OSError, RuntimeError) as error:
            raise refusal("openvino", error) from error
        sessions = {path: _session(path, model, options) for path, model in opened.items()}
        if file.suffix != ".json":
            return sessions[file]
        index = buckets.read(file)
        return buckets.BucketedSession(index, lambda size: sessions[file.parent / index.sizes[size][0]])

    def load(self, model: onnx.ModelProto, options: Options) -> OpenVinoSession:
        """Open a graph that is in memory."""
        return OpenVinoSession(compiled(read(model), options), [value.name for value in model.graph.output])

    def thaw(self, model: onnx.ModelProto) -> Any:
        """The graph as OpenVINO's own model, for tools that work on it."""
        return read(model)

    def freeze(self, model: Any) -> tuple[bytes, bytes]:
        """OpenVINO's own model as ``(xml, bin)``, weights as they are."""
        return frozen(model)

    def load_ir(self, ir: tuple[bytes, bytes], options: Options) -> OpenVinoSession:
        """Open what ``freeze`` gave."""
        model = thawed(ir)
        return OpenVinoSession(compiled(model, options), [port.get_any_name() for port in model.outputs])

    def profile(
        self, model: onnx.ModelProto, options: Options, feeds: Arrays | None = None, runs: int = 0
    ) -> list[Executed]:
        """The compiled model, timed by OpenVINO's own counters; see :class:`Backend`."""
        built = compiled(read(model), options, counted=feeds is not None)
        rounds = options.precision == "int8"
        return executed(built, model, rounds) if feeds is None else timed(built, model, rounds, feeds, runs)

    def variants(self, options: Options) -> list[Mapping[str, Any]]:
        """One thread; bf16 around INT8 on a CPU that computes in it."""
        if options.device != "cpu":
            return []
        around = options.precision == "int8" and options.around != "bf16"
        there = around and "bf16" in named.computes("cpu")
        return [*fewer_threads(options), *([{"around": "bf16"}] if there else [])]


def _keeps_state(options: Options) -> bool:
    """Where nobody says: on a CPU, where it was measured to be faster; buckets choose by what a step is given."""
    if options.stateful is None:
        return options.device == "cpu" and not options.buckets
    return options.stateful


def _models(file: Path) -> dict[Path, Any]:
    """Engine file -> OpenVINO's model; with buckets several, the largest last."""
    if file.suffix != ".json":
        return {file: core().read_model(file)}
    index = buckets.read(file)
    found = buckets.models(file, index)
    return {file.parent / index.sizes[size][0]: found[size] for size in sorted(found)}


def _session(path: Path, model: Any, options: Options) -> OpenVinoSession | StatefulSession:
    built = blob.read(model, options, path) if options.blob else compiled(model, options)
    names = [port.get_any_name() for port in model.outputs]
    states = noted(model)
    return StatefulSession(built, names, states, model) if states else OpenVinoSession(built, names)


BACKEND = OpenVinoBackend()
