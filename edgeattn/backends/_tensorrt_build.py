"""One builder for TensorRT and TensorRT for RTX: an ONNX graph becomes a plan.

Networks are always strongly typed: what a layer computes in is what the graph says (types of weights, Casts, Q/DQ), so
that no flag can promise a precision that does not run. TF32 is off: FP32 means FP32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgeattn import memory
from edgeattn.errors import EngineFailed, OutOfResources, printable
from edgeattn.phase import native
from edgeattn.publish import scratch

if TYPE_CHECKING:
    import onnx

Sizes = tuple[int, int, int]
"""The least, the most typical and the largest size of a dynamic dimension."""


@dataclass(frozen=True)
class Built:
    """A plan and what the builder told of it.

    Attributes:
        plan: the engine file's bytes. layers: the builder's own list of what it made, one line a layer.
        seconds: of building. peak_bytes: memory that the process held at most meanwhile; None where it is not known.
    """

    plan: bytes
    layers: tuple[str, ...]
    seconds: float
    peak_bytes: int | None


def build(
    trt: Any,
    model: onnx.ModelProto,
    profile: Mapping[str, Sizes],
    configure: Callable[[Any], None],
    engine: str,
) -> Built:
    """Parse and build one graph.

    Args:
        trt: the package, ``tensorrt`` or ``tensorrt_rtx``.
        model: the graph. profile: sizes of each dynamic dimension by name.
        configure: sets what is special about the engine on the builder's configuration.
        engine: what the package is called in errors.

    Raises:
        EngineFailed: the parser refuses a node, or the builder the network. OutOfResources: memory ran out.
    """
    started = time.perf_counter()
    heard = _listener(trt)
    builder = trt.Builder(heard)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    with native(engine, "parsing the graph"):
        _parse(trt, model, network, heard, engine)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_profile(builder, network, config, profile, engine)
    configure(config)
    memory.forget_peak()
    with native(engine, "building the engine"):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failure(heard.errors, engine, "building the engine")
    return Built(bytes(plan), heard.layers, time.perf_counter() - started, memory.peak())


def _parse(trt: Any, model: onnx.ModelProto, network: Any, heard: Any, engine: str) -> None:
    from edgeattn import outside

    parser = trt.OnnxParser(network, heard)
    if outside.tensors(model):
        with scratch() as folder:
            outside.write(model, folder / "model.onnx")
            parsed = parser.parse_from_file(str(folder / "model.onnx"))
    else:
        parsed = parser.parse(model.SerializeToString())
    if not parsed:
        told = [parser.get_error(i) for i in range(parser.num_errors)]
        first = next(iter(told), None)
        if first is None:
            raise _failure(heard.errors, engine, "parsing the graph")
        node = first.node_name() or first.node_operator()
        what = f"the parser refuses node '{node}': {first.desc()}" if node else f"the parser: {first.desc()}"
        raise EngineFailed(printable(what, 400), where=engine, hint="see `edgeattn inspect` on the ONNX")


def _set_profile(builder: Any, network: Any, config: Any, sizes: Mapping[str, Sizes], engine: str) -> None:
    """One optimization profile over every dynamic input."""
    profile, dynamic = builder.create_optimization_profile(), False
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if any(size < 0 for size in tensor.shape):
            dynamic = True
            profile.set_shape(tensor.name, *_spans(tensor, sizes, engine))
    if dynamic:
        config.add_optimization_profile(profile)


def _spans(tensor: Any, sizes: Mapping[str, Sizes], engine: str) -> Sequence[tuple[int, ...]]:
    shapes = []
    for which in range(3):
        shape = []
        for axis, size in enumerate(tensor.shape):
            name = tensor.get_dimension_name(axis) or f"{tensor.name}:{axis}"
            if size < 0 and name not in sizes:
                hint = f"say which sizes it takes: --profile {name}=1:1:8, or one: `edgeattn rewrite --fix {name}=1`"
                raise EngineFailed(f"dimension '{name}' of input '{tensor.name}' is dynamic", where=engine, hint=hint)
            shape.append(size if size >= 0 else sizes[name][which])
        shapes.append(tuple(shape))
    return shapes


def _failure(errors: Sequence[str], engine: str, doing: str) -> EngineFailed | OutOfResources:
    """What the library logged last as an error, as ours."""
    said = next((line for line in errors if line), f"{doing} failed without a word")
    if any("out of memory" in line.lower() or "OutOfMemory" in line for line in errors):
        return OutOfResources(f"ran out of memory while {doing}", where=engine, hint="EDGEATTN_MEMORY sets the limit")
    return EngineFailed(printable(said, 400), where=engine, hint="see `edgeattn inspect` on the ONNX")


def _listener(trt: Any) -> Any:
    """A logger that keeps errors, and the builder's list of the layers that it made."""

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers: tuple[str, ...] = ()

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.errors.append(message.strip())
            elif message.startswith("Layers:\n"):
                self.layers = tuple(message.partition("\n\n")[0].splitlines()[1:])

    return Listener()
