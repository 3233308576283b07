"""One builder for TensorRT and TensorRT for RTX: an ONNX graph becomes a plan.

Networks are always strongly typed where the version can: what a layer computes in is what the graph says (types of
weights, Casts, Q/DQ), so that no flag can promise a precision that does not run. TF32 is off: FP32 means FP32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeattn import memory, progress
from edgeattn.backends._common import refusal
from edgeattn.backends._tensorrt_versions import Version
from edgeattn.errors import EdgeattnError, OutOfResources
from edgeattn.phase import native
from edgeattn.publish import scratch

if TYPE_CHECKING:
    import onnx

    from edgeattn.profile import Bucket


@dataclass(frozen=True)
class Order:
    """What is to be built.

    Attributes:
        trt: the package, ``tensorrt`` or ``tensorrt_rtx``. engine: what it is called in errors.
        version: its row in the table of differences. precision: what was asked for.
        buckets: sizes of dynamic dimensions by name, an optimization profile each.
        configure: sets what is special about the engine; returns the timing cache that the builder works on, or None.
    """

    trt: Any
    engine: str
    version: Version
    precision: str
    buckets: Sequence[Bucket]
    configure: Callable[[Any], Any]


@dataclass(frozen=True)
class Built:
    """A plan and what the builder told of it.

    Attributes:
        plan: the engine file's bytes. layers: the builder's own list of what it made, one line a layer.
        cache: the timing cache as it is now; empty where there is none.
        seconds: of parsing and building. peak_bytes: by how much the process's memory grew at most; None where it
            is not known.
    """

    plan: bytes
    layers: tuple[str, ...]
    cache: bytes
    seconds: float
    peak_bytes: int | None


def build(model: onnx.ModelProto, order: Order) -> Built:
    """Parse and build one graph; progress goes to whoever listens (:mod:`edgeattn.progress`).

    Raises:
        EngineFailed: the parser refuses a node, or the builder the network. OutOfResources: memory ran out.
    """
    trt, engine, started = order.trt, order.engine, time.perf_counter()
    before = memory.held()
    builder, network, heard = parsed(model, order)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for name in order.version.precision.get(order.precision, ()):
        config.set_flag(getattr(trt.BuilderFlag, name))
    for bucket in order.buckets:
        _add_profile(builder, network, config, bucket)
    cache = order.configure(config)
    watch = _monitor(trt)
    if watch is not None:
        config.progress_monitor = watch
    with native(engine, "building the engine"):
        plan = builder.build_serialized_network(network, config)
    if watch is not None and watch.raised is not None:
        raise watch.raised
    if plan is None:
        raise _failure(heard.errors, engine, "building the engine")
    kept = b"" if cache is None else bytes(cache.serialize())
    return Built(bytes(plan), heard.layers, kept, time.perf_counter() - started, memory.grown(before))


def parsed(model: onnx.ModelProto, order: Order) -> tuple[Any, Any, Any]:
    """A builder, its network of the graph, and the log of both.

    Raises:
        EngineFailed: the parser refuses a node.
    """
    heard = _log(order.trt)
    builder = order.trt.Builder(heard)
    network = builder.create_network(_flags(order.trt, order.version))
    _parse(model, network, heard, order)
    return builder, network, heard


def _flags(trt: Any, version: Version) -> int:
    return sum(1 << int(getattr(trt.NetworkDefinitionCreationFlag, name)) for name in version.network)


def _parse(model: onnx.ModelProto, network: Any, heard: Any, order: Order) -> None:
    from edgeattn import outside

    parser = order.trt.OnnxParser(network, heard)
    with native(order.engine, "parsing the graph"):
        if outside.tensors(model):
            with scratch() as folder:
                outside.write(model, folder / "model.onnx")
                parsed = parser.parse_from_file(str(folder / "model.onnx"))
        else:
            parsed = parser.parse(model.SerializeToString())
    if parsed:
        return
    if not parser.num_errors:
        raise _failure(heard.errors, order.engine, "parsing the graph")
    first = parser.get_error(0)
    name = getattr(first, "node_name", str)() or getattr(first, "node_operator", str)()
    where = f"node '{name}': " if name else ""
    raise refusal(order.engine, RuntimeError(f"its parser refuses {where}{first.desc()}"))


def _add_profile(builder: Any, network: Any, config: Any, bucket: Bucket) -> None:
    """An optimization profile over every dynamic input; nothing where all are fixed."""
    profile, dynamic = builder.create_optimization_profile(), False
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if any(size < 0 for size in tensor.shape):
            names = [tensor.get_dimension_name(axis) or f"{tensor.name}:{axis}" for axis in range(len(tensor.shape))]
            spans = [(s, s, s) if s >= 0 else bucket[n] for s, n in zip(tensor.shape, names, strict=True)]
            profile.set_shape(tensor.name, *zip(*spans, strict=True))
            dynamic = True
    if dynamic:
        config.add_optimization_profile(profile)


def _failure(errors: Sequence[str], engine: str, doing: str) -> EdgeattnError:
    """What the library logged, as ours: that memory ran out if it says so anywhere, else its first error."""
    short = (line for line in errors if isinstance(refusal(engine, RuntimeError(line)), OutOfResources))
    said = next(short, "") or next((line for line in errors if line), f"{doing} failed without a word")
    return refusal(engine, RuntimeError(said))


def _log(trt: Any) -> Any:
    """A logger that keeps errors, and the builder's list of the layers that it made."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers: tuple[str, ...] = ()

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(message.strip())
            elif message.startswith("Layers:\n"):
                self.layers = tuple(message.partition("\n\n")[0].splitlines()[1:])

    return Log()


def _monitor(trt: Any) -> Any:
    """Tells the builder's outermost phase as it goes on; None where this version has no such thing."""
    if not hasattr(trt, "IProgressMonitor"):
        return None
    listen = progress.listener()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.raised: BaseException | None = None
            self._outer, self._steps = "", 0

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self._outer, self._steps = name, steps

        def step_complete(self, name: str, step: int) -> bool:
            """Whether to go on: no, where the listener raised or the user pressed Ctrl-C."""
            self._tell(name, step + 1)
            return self.raised is None

        def phase_finish(self, name: str) -> None:
            self._tell(name, self._steps)

        def _tell(self, name: str, done: int) -> None:
            try:
                if name == self._outer and self.raised is None:
                    listen(name.lower(), done, self._steps)
            except BaseException as error:  # it may not pass through native code
                self.raised = error

    return Monitor()
