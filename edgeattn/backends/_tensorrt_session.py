"""Running a plan on a GPU: tensors go there through CUDA's own bindings, no PyTorch is needed.

Every shape that comes twice is captured as a CUDA graph and replayed. A decoder's state stays on the device between
steps (:meth:`TensorRtSession.hold`), as do the inputs that never change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn import profile
from edgeattn.backends import Executed
from edgeattn.backends._common import explain_failure
from edgeattn.backends._cuda import CARRIES, Buffer, Cuda, Replay
from edgeattn.backends._tensorrt_resident import Resident
from edgeattn.errors import BadInput, EngineFailed, IntegrityError, printable
from edgeattn.phase import native
from edgeattn.program import TensorSpec

if TYPE_CHECKING:
    from edgeattn.backends._tensorrt_plan import Facts
    from edgeattn.program import Array, Arrays

_DTYPES = {
    **{"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "UINT8": "uint8"},
    **{"INT32": "int32", "INT64": "int64", "BOOL": "bool"},
}
_NUMPY = set(_DTYPES.values()) - {"bfloat16"}
_WARM_UP_RUNS = 3


class TensorRtSession:
    """One plan, open on the first GPU.

    Attributes:
        carries: what a run does beside computing, in words, for whoever times it.
    """

    carries = CARRIES

    def __init__(self, trt: Any, engine: Any, facts: Facts) -> None:
        self._cuda, self._engine, self._buckets = Cuda(), engine, facts.profiles
        self._context = _context(trt, engine)
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        reads = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = tuple(_spec(engine, name, facts) for name in names if reads[name])
        self.outputs = tuple(_spec(engine, name, facts) for name in names if not reads[name])
        self._buffers = {name: Buffer(self._cuda) for name in names}
        self._replay = None if hasattr(trt, "CudaGraphStrategy") else Replay(self._cuda)  # else it replays by itself
        self._ran: set[object] = set()
        self._runs = 0

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run once; see :class:`edgeattn.program.Session`. Outputs are copies, safe to keep."""
        return self._run(feeds, {}, frozenset())

    def hold(self, state: Mapping[str, str], fixed: frozenset[str], read: frozenset[str] | None = None) -> Held:
        """The session for one sequence of steps, whose caller feeds back exactly what came out.

        Args:
            state: input -> the output of the step before that it takes. fixed: inputs that are the same in every step.
            read: what the caller reads; all is given, since a state that grows tells its size.
        """
        return Held(self, state, fixed)

    def resident(self, feeds: Arrays) -> Resident:
        """One run whose inputs stay on the device, to be queued again and again: what the device alone takes."""
        return Resident(self, feeds)

    def _run(self, feeds: Arrays, moved: Mapping[str, str], kept: frozenset[str]) -> dict[str, Array]:
        self._runs += 1
        given = {spec.name: self._checked(spec, feeds) for spec in self.inputs}
        self._choose(given)
        with native("TensorRT", "running the graph"):
            fresh = [self._place(name, value.shape, value.nbytes) for name, value in given.items()]
            for name, value in given.items():
                if name in moved:
                    self._cuda.move(self._buffers[name], self._buffers[moved[name]], value.nbytes)
                elif name not in kept:
                    self._cuda.upload(self._buffers[name], value)
            results = {spec.name: self._room(spec) for spec in self.outputs}
            fresh += [self._place(name, None, value.nbytes) for name, value in results.items()]
            self._execute(tuple(value.shape for value in given.values()), any(fresh))
            self._fetch(results)
        return results

    def _fetch(self, results: Arrays) -> None:
        """Copy the outputs into arrays, once all that was queued is done."""
        for name, value in results.items():
            self._cuda.download(value, self._buffers[name])
        self._cuda.wait()

    def _checked(self, spec: TensorSpec, feeds: Arrays) -> Array:
        problem = explain_failure("tensorrt", ValueError(), (spec,), feeds)
        if isinstance(problem, BadInput):
            raise problem
        return np.asarray(feeds[spec.name], order="C")

    def _choose(self, given: Arrays) -> None:
        """Take the bucket that the feeds fit in."""
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            for dim, size in zip(spec.shape, given[spec.name].shape, strict=True):
                if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                    raise BadInput(f"'{dim}' is {sizes[dim]} and {size}", hint=f"expected {spec}")
        number = profile.fitting(self._buckets, sizes)
        if number is None:
            told = ", ".join(f"{name}={size}" for name, size in sizes.items())
            taken = " or ".join(profile.words(bucket) for bucket in self._buckets)
            raise BadInput(
                f"the engine was not built for {told}", hint=f"it takes {taken}; --profile builds for others"
            )
        if number != self._context.active_optimization_profile:
            self._context.set_optimization_profile_async(number, int(self._cuda.stream))
            self._forget()

    def _place(self, name: str, shape: tuple[int, ...] | None, size: int) -> bool:
        """Give a tensor its memory and an input its shape; whether an address is new."""
        fresh = self._buffers[name].hold(size)
        if fresh:
            self._context.set_tensor_address(name, self._buffers[name].pointer)
        if shape is not None and not self._context.set_input_shape(name, shape):
            raise EngineFailed(f"refuses shape {list(shape)} of input '{name}'", where="tensorrt")
        return fresh

    def _room(self, spec: TensorSpec) -> Array:
        shape = tuple(self._context.get_tensor_shape(spec.name))
        if any(size < 0 for size in shape):
            raise EngineFailed(f"the size of output '{spec.name}' depends on the data", where="tensorrt")
        if spec.dtype not in _NUMPY:
            raise EngineFailed(f"output '{spec.name}' is {spec.dtype}, which NumPy does not hold", where="tensorrt")
        return np.empty(shape, spec.dtype)

    def _execute(self, key: object, fresh: bool) -> None:
        """Queue the work: as it is the first time, replayed from the second on."""
        if fresh:
            self._forget()
        if self._replay is None or key not in self._ran:
            self._queue()
        else:
            if key not in self._replay:
                self._replay.capture(key, self._queue)
            self._replay.run(key)
        self._ran.add(key)

    def _forget(self) -> None:
        """What was captured holds addresses and a profile that are no longer right."""
        self._ran.clear()
        if self._replay is not None:
            self._replay.forget()

    def _queue(self) -> None:
        if not self._context.execute_async_v3(int(self._cuda.stream)):
            raise EngineFailed("failed to run the graph", where="tensorrt", hint="--debug shows what it logged")


class Held:
    """A session for one sequence: state goes from output to input on the device, fixed inputs go there once."""

    def __init__(self, session: TensorRtSession, state: Mapping[str, str], fixed: frozenset[str]) -> None:
        self._session, self._state, self._fixed = session, state, fixed
        self.inputs, self.outputs = session.inputs, session.outputs
        self._steps = 0

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """The next step; what is on the device already is not sent again."""
        moved, kept = (self._state, self._fixed) if self._steps else ({}, frozenset[str]())
        self._steps += 1
        return self._session._run(feeds, moved, kept)


def opened(trt: Any, plan: bytes, facts: Facts, title: str, weights: Path | None = None) -> TensorRtSession:
    """Open a plan whose bytes were checked.

    Args:
        trt: the package. plan, facts: what was read. title: the engine in errors.
        weights: the ONNX that a stripped plan was built from.

    Raises:
        EngineFailed: the library refuses it, with the library's reasons.
    """
    engine = deserialized(trt, plan, title)
    if facts.stripped:
        _refit(trt, engine, weights, title)
    return TensorRtSession(trt, engine, facts)


def deserialized(trt: Any, plan: bytes, title: str) -> Any:
    """The engine in a plan. Code for the host in it is never run: ``engine_host_code_allowed`` stays False."""
    log = _errors(trt)
    with native(title, "opening the engine"):
        runtime = trt.Runtime(log)
        _assert_valid(trt, runtime, plan, title, log)
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        said = next((line for line in log.errors if line), "refused without a word")
        raise EngineFailed(printable(said, 400), where=title, hint="build it again on this machine")
    return engine


def _assert_valid(trt: Any, runtime: Any, plan: bytes, title: str, log: Any) -> None:
    """Ask the library whether a plan's header is for this machine, where the version can tell."""
    if not hasattr(runtime, "get_engine_validity"):
        return
    validity, reasons = runtime.get_engine_validity(plan[: runtime.engine_header_size])
    if validity == trt.EngineValidity.INVALID:
        told = [name.lower().replace("_", " ") for name, bit in _members(trt) if int(reasons) & int(bit)]
        said = "; ".join([*([", ".join(told)] if told else []), *log.errors]) or "no reason given"
        raise EngineFailed(f"the plan is not valid here: {printable(said, 400)}", where=title)


def _members(trt: Any) -> list[tuple[str, Any]]:
    return list(trt.EngineInvalidityDiagnostics.__members__.items())


def _refit(trt: Any, engine: Any, weights: Path | None, title: str) -> None:
    """Put the weights back that were left out."""
    if weights is None:
        raise IntegrityError("the weights that the plan was stripped of are not beside it", where=title)
    log = _errors(trt)
    refitter = trt.Refitter(engine, log)
    with native(title, "putting the weights back"):
        done = trt.OnnxParserRefitter(refitter, log).refit_from_file(str(weights)) and refitter.refit_cuda_engine()
    if not done:
        said = next((line for line in log.errors if line), "refused without a word")
        raise EngineFailed(printable(said, 400), where=title, hint="build it again without strip")


def timed(
    trt: Any, plan: bytes, facts: Facts, layers: list[Executed], feeds: Arrays, runs: int, title: str
) -> list[Executed]:
    """The layers with the milliseconds of one run, by the engine's own profiler."""
    session = opened(trt, plan, facts, title)
    spent: dict[str, float] = {}

    class Clock(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            spent[layer_name] = spent.get(layer_name, 0.0) + ms

    for _ in range(_WARM_UP_RUNS):
        session.run(feeds)
    session._context.profiler = Clock()
    session._replay = None  # a replayed graph tells nothing of its layers
    for _ in range(max(runs, 1)):
        session.run(feeds)
    return [replace(layer, milliseconds=spent.get(layer.node, 0.0) / max(runs, 1)) for layer in layers]


def _context(trt: Any, engine: Any) -> Any:
    """An execution context; TensorRT for RTX captures CUDA graphs by itself where it is told to."""
    if not hasattr(trt, "CudaGraphStrategy"):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)


def _spec(engine: Any, name: str, facts: Facts) -> TensorSpec:
    """A tensor of the engine; the names of its dynamic dimensions are the graph's, which a plan does not keep."""
    kind = engine.get_tensor_dtype(name).name
    shape = tuple(engine.get_tensor_shape(name))
    known = facts.tensors.get(name, shape)
    sizes = tuple(size if size >= 0 else known[axis] for axis, size in enumerate(shape))
    return TensorSpec(name, _DTYPES.get(kind, kind.lower()), sizes)


def _errors(trt: Any) -> Any:
    """A logger that keeps errors."""

    class Errors(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(message.strip())

    return Errors()
