"""nn.Module -> Program: ONNX graphs, and the seeded inputs with eager outputs every later stage is judged by.

Each graph goes through PyTorch's dynamo exporter. The oracle holds what eager PyTorch computed in the model's own
dtype and in float64, at two batch sizes and two sizes of every dynamic dimension, so that a dimension frozen by
the exporter is found at once.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgeattn import decode, obstacles
from edgeattn.downgrade import to_opset_17
from edgeattn.eager import EagerSession, eager_sessions, oracle, program_inputs
from edgeattn.errors import Unsupported, UsageError
from edgeattn.models import GraphSource, Source
from edgeattn.program import Case, Program, Reference, StageRecord, TensorSpec

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array, Arrays

__all__ = ["OPSETS", "eager_sessions", "export", "program_inputs", "spatial_masks", "use_threads"]

OPSETS = range(17, 21)


def export(source: Source, *, opset: int = 18, seed: int = 0, real: Sequence[Case] = ()) -> Program:
    """Export a PyTorch source to a Program with its oracle.

    Args:
        source: modules, specs and wiring.
        opset: ONNX opset, 17 to 20 (what TensorRT 8.5 to 10.7 and every CPU engine read).
        seed: fixes the oracle's inputs.
        real: cases with feeds from the task's or the user's data, named ``real…``; of a wired program, those without
            tokens are forced to the tokens that eager PyTorch decodes.

    Raises:
        UsageError: opset out of range. BadInput: the module does not take the inputs or does not repeat itself.
        Unsupported: PyTorch cannot export it; the line in the user's file is named where one is to blame.
    """
    if opset not in OPSETS:
        raise UsageError(f"opset {opset} is not exported", where="--opset", hint="17 to 20; 18 suits every engine")
    started = time.perf_counter()
    reference, golden = oracle(source, seed, real)
    sessions = eager_sessions(source)
    _rerun(source, sessions, reference)
    graphs = {name: _to_onnx(name, graph, sessions[name], opset) for name, graph in source.graphs.items()}
    notes = {
        "opset": opset,
        "exporter": f"torch {torch.__version__} dynamo",
        "cases": len(reference.cases),
        "golden": golden,
    }
    record = StageRecord("export", time.perf_counter() - started, notes)
    return Program(graphs, source.wiring, reference, (record,))


def spatial_masks(source: Source, feeds: Arrays) -> list[tuple[str, Array]]:
    """What PyTorch's spatial gates give for one input: ``(module path, mask (B, 1, h, w))`` in the order they run.

    A spatial gate is an ``nn.Sigmoid`` with one output channel over a feature map.
    """
    found: list[tuple[str, Array]] = []

    def hook(path: str) -> Any:
        def keep(_module: torch.nn.Module, _args: Any, mask: torch.Tensor) -> None:
            if mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[2:].numel() > 1:
                found.append((path, mask.numpy()))

        return keep

    modules = [(p, m) for g in source.graphs.values() for p, m in g.module.named_modules()]
    handles = [m.register_forward_hook(hook(p)) for p, m in modules if isinstance(m, torch.nn.Sigmoid)]
    try:
        decode.run(eager_sessions(source), source.wiring, feeds)
    finally:
        for handle in handles:
            handle.remove()
    return found


def use_threads(count: int) -> None:
    """Let eager PyTorch compute with ``count`` threads, so that it is timed with what the engine gets."""
    torch.set_num_threads(count)


def _rerun(source: Source, sessions: Mapping[str, EagerSession], reference: Reference) -> None:
    """Run every case once more, so each session has seen all shapes; the last one leaves feeds fit for tracing."""
    runnable = [c for c in reference.cases if c.tokens is None or c.tokens.size]
    tracing = _fit_for_tracing(runnable, program_inputs(source))
    for case in (*(c for c in runnable if c is not tracing), tracing):
        decode.run(sessions, source.wiring, case.feeds, case.tokens)


def _fit_for_tracing(runnable: Sequence[Case], inputs: Sequence[TensorSpec]) -> Case:
    """The first case whose dynamic sizes are all above 1, else the one whose smallest is largest.

    The exporter treats sizes 0 and 1 as constants. Seeded cases come first: a real batch may happen to have the size
    of some feature map, and the exporter then writes shape arithmetic where a constant would do.
    """

    def narrowest(case: Case) -> int:
        sizes = [
            n for s in inputs for n, d in zip(case.feeds[s.name].shape, s.shape, strict=True) if isinstance(d, str)
        ]
        return min(sizes, default=2)

    return next((c for c in runnable if narrowest(c) > 1), max(runnable, key=narrowest))


def _to_onnx(name: str, graph: GraphSource, session: EagerSession, opset: int) -> onnx.ModelProto:
    args = tuple(torch.from_numpy(np.asarray(session.last_feeds[s.name], order="C")) for s in graph.inputs)
    guards = obstacles.Guards()
    _forget_unrolled()
    try:
        with guards.listening():
            exported = torch.onnx.export(
                graph.module.eval(),
                args,
                dynamo=True,
                opset_version=max(opset, 18),  # what the exporter writes itself; 17 is made from it
                input_names=[s.name for s in graph.inputs],
                output_names=list(graph.outputs),
                dynamic_shapes=_dynamic_shapes(graph),
                verbose=False,
            )
    except Exception as error:
        if obstacles.interrupted(error):
            raise KeyboardInterrupt from error
        raise obstacles.explained(error, name, guards) from error
    if exported is None:
        raise Unsupported(f"PyTorch exported nothing for graph '{name}'")
    model: onnx.ModelProto = exported.model_proto
    if opset == 17:
        model = to_opset_17(model)
    written = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if written != opset:
        raise Unsupported(
            f"PyTorch wrote graph '{name}' in opset {written}, not {opset}", where="--opset", hint=f"use {written}"
        )
    del model.graph.value_info[:]  # the exporter's notes repeat the traced sizes; shape inference finds the true ones
    for value in model.graph.output:
        _declare(value, _true_shape(value.name, graph.inputs, session.seen))
    return model


def _forget_unrolled() -> None:
    """Make PyTorch decide anew how its recurrent layers are traced.

    After an export of a GRU at a fixed length (PyTorch 2.13) the operator remembers to unroll itself, and the next
    export in the process, of any model, would fix its length too.
    """
    for name in ("gru", "lstm", "rnn_tanh", "rnn_relu"):
        layer = getattr(torch.ops.aten, name)
        for overload in layer.overloads():
            getattr(getattr(layer, overload), "_dispatch_cache", {}).clear()


def _dynamic_shapes(graph: GraphSource) -> tuple[Any, ...]:
    """Each input's dynamic axes and their names; the exporter wants those of ``forward(…, *rest)`` in one tuple."""
    dynamic = tuple({i: d for i, d in enumerate(s.shape) if isinstance(d, str)} for s in graph.inputs)
    kinds = [p.kind for p in inspect.signature(graph.module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return dynamic
    named = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*dynamic[:named], dynamic[named:])


def _true_shape(name: str, inputs: Sequence[TensorSpec], seen: Sequence[Mapping[str, tuple[int, ...]]]) -> list[Any]:
    """Shape of an output over all eager runs: a size that varied carries the name of the input dimension it follows."""
    shapes = [run[name] for run in seen]
    named = {
        d: [run[s.name][i] for run in seen]
        for s in inputs
        for i, d in enumerate(s.shape)
        if isinstance(d, str) and all(s.name in run for run in seen)
    }
    dims: list[Any] = []
    for axis, sizes in enumerate(zip(*shapes, strict=True)):
        follows = [d for d, values in named.items() if values == list(sizes)]
        varies = len(set(sizes)) > 1
        dims.append((follows[0] if follows else f"{name}_{axis}") if varies else sizes[0])
    return dims


def _declare(value: onnx.ValueInfoProto, dims: Sequence[Any]) -> None:
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for dim in dims:
        shape.dim.add(**({"dim_value": dim} if isinstance(dim, int) else {"dim_param": dim}))
