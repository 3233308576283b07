"""Who runs: each starts on a subject with its inputs on the device, or says in one line why it does not.

Every contender queues one inference on a stream and returns; nothing is copied between host and device. PyTorch has
TF32 off in FP32, and the whole module and its inputs in half precision in FP16 (autocast where the module does not
take that). ``torch.compile`` replays CUDA graphs (``reduce-overhead``), as our engines do and as ONNX Runtime is asked
to.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeattn import registry
from edgeattn.backends import Options
from edgeattn.backends import _nvidia as nvidia
from edgeattn.backends import _tensorrt_plan as plans
from edgeattn.backends._cuda import Cuda
from edgeattn.backends._tensorrt_load import sizes_of
from edgeattn.backends._tensorrt_resident import Resident
from edgeattn.errors import EdgeattnError, printable
from edgeattn.graphs import input_specs, output_specs
from edgeattn.program import Program, Reference
from tests.benchmarks.gpu.clock import Call, Clock, EventClock, HostClock
from tests.benchmarks.gpu.subjects import Subject

WARM_UP = 3
FALLBACKS = ("sm120", "sm89", "sm80")
"""What TensorRT for RTX is asked to open on a GPU that is none of its devices, beside an engine for the GPU itself."""


class LeftOut(Exception):
    """Why a contender does not take part."""


@dataclass(frozen=True)
class Running:
    """A contender that takes part.

    Attributes:
        queue: one inference. stream: the handle that it queues on; None on a CPU. outputs: what the last run gave.
        graph: who captures a CUDA graph of it, asked once it has run; empty where nobody does.
        facts: what else is known of it.
    """

    queue: Call
    stream: Any
    outputs: Callable[[], Mapping[str, np.ndarray]]
    graph: Callable[[], str] = str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """Its title, the precision whose limits it is judged by, and how it starts."""

    title: str
    precision: str
    start: Callable[[Subject, Machine], Running]


@dataclass(frozen=True)
class Machine:
    """Where PyTorch computes, the stream that it and ONNX Runtime share, and CUDA; None of both without a GPU."""

    device: str
    stream: int | None
    cuda: Cuda | None
    why: str = ""

    def clock(self) -> Clock:
        """The clock for one comparison."""
        return HostClock() if self.cuda is None else EventClock(self.cuda)


def machine() -> Machine:
    """This one, with PyTorch set up as it is measured."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    here = nvidia.runs(())
    if not here.available:
        return Machine("cpu", None, None, here.why)
    if not torch.cuda.is_available():
        return Machine("cpu", None, None, f"PyTorch {torch.__version__} sees no GPU")
    stream = torch.cuda.Stream()
    torch.cuda.set_stream(stream)
    return Machine("cuda", int(stream.cuda_stream), Cuda())


def contenders() -> tuple[Contender, ...]:
    """All, the baseline first."""
    engines = [
        Contender(f"edgeattn, {title}, {precision.upper()}", precision, partial(_engine, name, precision))
        for name, title in (("tensorrt_rtx", "TensorRT for RTX"), ("tensorrt", "TensorRT"))
        for precision in ("fp32", "fp16", "int8")
    ]
    return (
        Contender("PyTorch eager, FP32", "fp32", partial(_torch, "fp32", "")),
        Contender("PyTorch eager, FP16", "fp16", partial(_torch, "fp16", "")),
        *engines,
        *(
            Contender(f"ONNX Runtime CUDA, {precision.upper()}", precision, partial(_onnxruntime, precision))
            for precision in ("fp32", "fp16")
        ),
        Contender("torch.compile, FP32", "fp32", partial(_torch, "fp32", "reduce-overhead")),
        Contender("torch.compile, FP16", "fp16", partial(_torch, "fp16", "reduce-overhead")),
    )


def started(contender: Contender, subject: Subject, here: Machine) -> tuple[Running, Mapping[str, np.ndarray]]:
    """A contender after its first runs, and its outputs.

    Raises:
        LeftOut: with what it said, whatever that was: one that breaks must not take the others down.
    """
    try:
        running = contender.start(subject, here)
        for _ in range(WARM_UP):
            running.queue()
        return running, running.outputs()
    except LeftOut:
        raise
    except Exception as error:
        raise LeftOut(f"{type(error).__name__}: {printable(str(error).strip(), 600)}") from error


def _torch(precision: str, mode: str, subject: Subject, here: Machine) -> Running:
    if mode and here.cuda is None:
        raise LeftOut(here.why)
    half = torch.float16 if precision == "fp16" else torch.float32
    try:
        return _module(subject, here, half, half, mode)
    except RuntimeError:
        if precision == "fp32":
            raise
        return _module(subject, here, torch.float32, half, mode)


def _module(subject: Subject, here: Machine, stored: torch.dtype, computed: torch.dtype, mode: str) -> Running:
    """The module run once; weights and inputs as ``stored``, computing in ``computed``, by autocast if need be."""
    module = copy.deepcopy(subject.graph.module).eval().to(here.device, stored)
    run = torch.compile(module, mode=mode) if mode else module
    given = [_tensor(subject.given[spec.name], here.device, stored) for spec in subject.graph.inputs]
    cast = stored != computed
    context = torch.autocast(here.device, computed) if cast else nullcontext()

    def queue() -> Any:
        if mode:  # else the graphs of two compiled modules that take turns are captured as one's continuation
            torch.compiler.cudagraph_mark_step_begin()
        with torch.inference_mode(), context:
            return run(*given)

    def outputs() -> dict[str, np.ndarray]:
        values = queue()
        arrays = (value.cpu() for value in (values if isinstance(values, tuple | list) else (values,)))
        whole = (value.float() if value.is_floating_point() else value for value in arrays)
        return {name: value.numpy() for name, value in zip(subject.graph.outputs, whole, strict=True)}

    queue()
    return Running(queue, here.stream, outputs, lambda: "torch" if mode else "", {"autocast": cast, "mode": mode})


def _tensor(value: np.ndarray, device: str, stored: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(np.asarray(value)).to(device)
    return tensor.to(stored) if tensor.is_floating_point() else tensor


def _onnxruntime(precision: str, subject: Subject, here: Machine) -> Running:
    if here.cuda is None:
        raise LeftOut(here.why)
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise LeftOut(f"onnxruntime {ort.__version__} has no CUDA provider: pip install onnxruntime-gpu")
    ort.preload_dlls()
    settings = {"use_tf32": "0", "user_compute_stream": str(here.stream)}
    try:
        queue = Bound(("CUDAExecutionProvider", {**settings, "enable_cuda_graph": "1"}), "cuda", precision, subject)
        return Running(queue, here.stream, queue.outputs, lambda: "onnxruntime")
    except Exception as error:  # a graph that cannot be captured is timed as it is, and that is said
        said = f"{type(error).__name__}: {printable(str(error), 300)}"
    queue = Bound(("CUDAExecutionProvider", settings), "cuda", precision, subject)
    return Running(queue, here.stream, queue.outputs, facts={"no CUDA graph": said})


class Bound:
    """ONNX Runtime with inputs and outputs bound to memory of a device; a call queues one run.

    Args:
        provider: its name and settings. device: where the tensors lie, ``cuda`` or ``cpu``.
    """

    def __init__(self, provider: tuple[str, Mapping[str, str]], device: str, precision: str, subject: Subject) -> None:
        import onnxruntime as ort

        model, feeds = subject.models[precision], subject.cases[precision].feeds
        self._session = ort.InferenceSession(model.SerializeToString(), providers=[provider])
        if self._session.get_providers()[0] != provider[0]:
            raise LeftOut(f"{provider[0]} of onnxruntime {ort.__version__} did not load")
        self._binding, self._options = self._session.io_binding(), ort.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        sizes = sizes_of(input_specs(model), feeds)
        self._values = {}
        for spec in input_specs(model):
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(feeds[spec.name]), device, 0)
            self._binding.bind_ortvalue_input(spec.name, value)
        for spec in output_specs(model):
            shape = [sizes[d] if isinstance(d, str) else d for d in spec.shape]
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.dtype(spec.dtype), device, 0)
            self._binding.bind_ortvalue_output(spec.name, value)
            self._values[spec.name] = value
        for _ in range(WARM_UP):
            self()

    def __call__(self) -> None:
        self._session.run_with_iobinding(self._binding, self._options)

    def outputs(self) -> dict[str, np.ndarray]:
        """What the last run gave, once it is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return {name: value.numpy() for name, value in self._values.items()}


def _engine(name: str, precision: str, subject: Subject, here: Machine) -> Running:
    """Our engine, built here for the GPU that is here; where the runtime refuses it, what it said of each plan."""
    backend = registry.get("backends", name)
    known = backend.probe()
    if not known.available:
        raise LeftOut(f"{name}: {known.why} ({known.hint})")
    capability = nvidia.capabilities()[:1]
    tried: dict[str, Any] = {}
    for device in _devices(backend, capability):
        facts: dict[str, Any] = {"built for": device}
        tried[device] = facts
        try:
            session = _opened(backend, Options(device, precision), subject, facts, here)
        except EdgeattnError as error:
            facts["said"] = str(error)
            continue
        others = {device: told for device, told in tried.items() if told is not facts}
        return _resident(session.resident(subject.cases[precision].feeds), {**facts, "refused": others})
    raise LeftOut("; ".join(_words(device, told) for device, told in tried.items()))


def _resident(queue: Resident, facts: Mapping[str, Any]) -> Running:
    return Running(queue, queue.cuda.stream, queue.outputs, lambda: queue.graph, facts)


def _words(device: str, told: Mapping[str, Any]) -> str:
    built = f"built ({told['bytes'] / 1e6:.1f} MB in {told['seconds']:.1f} s)" if "bytes" in told else "not built"
    return f"{device}: {built}, {told['said']}"


def _devices(backend: Any, capability: tuple[str, ...]) -> tuple[str, ...]:
    if backend.name == "tensorrt":
        return ("gpu",)
    if not capability:
        return (backend.devices[0],)
    return capability if capability[0] in backend.devices else ("current", *FALLBACKS)


def _opened(backend: Any, options: Options, subject: Subject, facts: dict[str, Any], here: Machine) -> Any:
    """Built and given to the library itself: our own check of the GPU would answer in its place.

    Raises:
        EdgeattnError: the builder's or the runtime's words.
    """
    from edgeattn.backends._tensorrt_session import opened

    model, case = subject.models[options.precision], subject.cases[options.precision]
    program = Program({"main": model}, reference=Reference("pytorch eager", (case,)))
    with tempfile.TemporaryDirectory() as folder:
        engine = backend.compile(program, options, Path(folder))
        made = engine.effective["main"]
        facts |= {"bytes": made["build"]["bytes"], "seconds": made["build"]["seconds"],
                  "macs_in": made["precision"]["macs_in"]}  # fmt: skip
        if here.cuda is None:
            nvidia.require((), backend.title)
        file = Path(folder) / engine.files["main"]
        return opened(backend.library(), file.read_bytes(), plans.facts(file), backend.title)
