"""Where the time of a program goes: what an engine executes of every graph, timed, in the names its user knows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeattn import decode
from edgeattn.graphs import input_specs, macs_by_node
from edgeattn.origin import module_of, origin_of
from edgeattn.recognise import recognise

if TYPE_CHECKING:
    import onnx

    from edgeattn.backends import Backend, Executed, Options
    from edgeattn.program import Arrays, Case, Program, Session, TensorSpec
    from edgeattn.recognise import Attention

_LONGEST_S = 3.0  # nobody learns more from a profile that takes longer


@dataclass(frozen=True)
class Layer:
    """One executed node in the user's names.

    Attributes:
        graph: of the program. node: what the user's graph calls it; what the engine added is called after its place.
        executed: what the engine says of it.
        milliseconds: of one run of the program, in which a step may run many times.
        macs: multiply-accumulates of one call, at the sizes that were run.
        module: the PyTorch module; empty where the exporter did not say.
        origin: nodes of the graph before any rewrite that it stands for.
        attention: ``cbam layer1.0.attention``; empty outside attention.
    """

    graph: str
    node: str
    executed: Executed
    milliseconds: float
    macs: int
    module: str
    origin: tuple[str, ...]
    attention: str


@dataclass(frozen=True)
class Profile:
    """A program run on one case.

    Attributes:
        layers: in order. calls: how often each graph ran. total_ms: one run, timed without the engine's profiler.
        runs: what the times are taken over.
    """

    layers: tuple[Layer, ...]
    calls: Mapping[str, int]
    total_ms: float
    runs: int


class _Listening:
    """A session that keeps what it was last fed, and counts."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.inputs: tuple[TensorSpec, ...] = session.inputs
        self.outputs: tuple[TensorSpec, ...] = session.outputs
        self.fed: Arrays = {}
        self.calls = 0

    def run(self, feeds: Arrays) -> dict[str, object]:
        self.fed, self.calls = dict(feeds), self.calls + 1
        return dict(self._session.run(feeds))


def profile(program: Program, backend: Backend, options: Options, case: Case, runs: int = 20) -> Profile:
    """Run a case, then every graph on what it was fed last, under the engine's own profiler.

    Args:
        program: what to run. backend, options: where.
        case: inputs, and tokens to force for a wired program.
        runs: at most; fewer of a program that would take more than seconds.

    Raises:
        EngineFailed: the engine does not take the program.
    """
    sessions = {graph: _Listening(backend.load(model, options)) for graph, model in program.graphs.items()}
    decode.run(sessions, program.wiring, case.feeds, case.tokens)  # type: ignore[arg-type]
    calls = {graph: session.calls for graph, session in sessions.items()}
    spans: list[float] = []
    began = time.perf_counter()
    while len(spans) < 3 or (len(spans) < runs and time.perf_counter() - began < _LONGEST_S):
        start = time.perf_counter()
        decode.run(sessions, program.wiring, case.feeds, case.tokens)  # type: ignore[arg-type]
        spans.append(1000 * (time.perf_counter() - start))
    layers: list[Layer] = []
    for graph, model in program.graphs.items():
        if calls[graph]:
            fed = sessions[graph].fed
            executed = backend.profile(model, options, fed, len(spans))
            layers += _named(graph, model, executed, calls[graph], fed)
    total = statistics.median(spans)
    return Profile(tuple(_without_the_profiler(layers, calls, total)), calls, total, len(spans))


def _without_the_profiler(layers: list[Layer], calls: Mapping[str, int], total: float) -> list[Layer]:
    """Times that fit into the run: a profiler takes microseconds a node, the same for each, which are taken off."""

    def less(cost: float) -> list[float]:
        return [max(0.0, layer.milliseconds - cost * calls[layer.graph]) for layer in layers]

    low, high = 0.0, max((layer.milliseconds for layer in layers), default=0.0)
    if sum(less(low)) <= total:
        return layers
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(less(middle)) > total else (low, middle)
    return [replace(layer, milliseconds=spent) for layer, spent in zip(layers, less(high), strict=True)]


def _named(graph: str, model: onnx.ModelProto, executed: list[Executed], calls: int, fed: Arrays) -> list[Layer]:
    nodes = {node.name or node.output[0]: node for node in model.graph.node if node.output}
    writers = {output: name for name, node in nodes.items() for output in node.output}
    macs, inside = dict(macs_by_node(model, _sizes(model, fed))), _attention(model)
    layers = []
    for one in executed:
        own = next((n for n in one.stands_for if nodes[n].op_type not in _PASSES), next(iter(one.stands_for), ""))
        near = own or next(iter(one.after), "")
        told = origin_of(nodes[near]) if near else None
        layers.append(
            Layer(
                graph,
                own or (f"{one.op} after {near}" if near else one.node),
                one,
                one.milliseconds * calls,
                sum(macs.pop(name, 0) for name in one.stands_for) if one.role == "product" else 0,
                _module(nodes, writers, near),
                told.nodes if told and own else (),
                next((inside[out] for out in (nodes[near].output if near else ()) if out in inside), ""),
            )
        )
    return layers


def _module(nodes: Mapping[str, onnx.NodeProto], writers: Mapping[str, str], name: str) -> str:
    """The module of a node; a quantizer's pass lies where the value was written that it passes on."""
    for _ in nodes:
        if not name or nodes[name].op_type not in _PASSES:
            break
        name = writers.get(nodes[name].input[0], "")
    return module_of(nodes[name]) if name else ""


_PASSES = ("QuantizeLinear", "DequantizeLinear")


def _sizes(model: onnx.ModelProto, fed: Arrays) -> dict[str, int]:
    """Dynamic dimensions by name, as they were run."""
    shapes = [(spec.shape, fed[spec.name].shape) for spec in input_specs(model) if spec.name in fed]
    return {dim: size for spec, shape in shapes for dim, size in zip(spec, shape, strict=False) if isinstance(dim, str)}


def _attention(model: onnx.ModelProto) -> dict[str, str]:
    """Value -> the attention that computes it, in words; what is gated or mixed by it is part of it."""
    return {value: _called(found) for found in recognise(model) for value in _values(found)}


def _values(found: Attention) -> set[str]:
    return {found.result, *found.nodes, *(value for part in found.parts for value in _values(part))}


def _called(found: Attention) -> str:
    return f"{found.kind} {found.module}".strip()
