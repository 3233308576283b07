"""nn.Module -> Program: ONNX graphs, and the seeded inputs with eager outputs every later stage is judged by.

Each graph goes through PyTorch's dynamo exporter. The oracle holds what eager PyTorch computed in the model's own
dtype and in float64, at two batch sizes and two sizes of every dynamic dimension, so that a dimension frozen by
the exporter is found at once.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgeattn import cases, decode, obstacles, theirs
from edgeattn.downgrade import to_opset_17
from edgeattn.errors import BadInput, EdgeattnError, Unsupported, UsageError
from edgeattn.models import GraphSource, Source
from edgeattn.program import Case, Program, Reference, StageRecord, TensorSpec, free_inputs

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array, Arrays

OPSETS = range(17, 21)


class EagerSession:
    """A PyTorch module behind the Session interface.

    It remembers its last feeds, which the exporter traces with, and every shape it saw, which say what is dynamic.
    """

    def __init__(self, graph: GraphSource, dtype: torch.dtype | None = None) -> None:
        self._module = graph.module.eval() if dtype is None else copy.deepcopy(graph.module).eval().to(dtype)
        self._dtype = dtype
        self._names = graph.outputs
        self.inputs = graph.inputs
        self.outputs: tuple[TensorSpec, ...] = tuple(TensorSpec(name, "float32", ()) for name in graph.outputs)
        self.last_feeds: dict[str, Array] = {}
        self.seen: list[dict[str, tuple[int, ...]]] = []

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run the module eagerly; see :class:`edgeattn.program.Session`."""
        self.last_feeds = dict(feeds)
        tensors = {spec.name: self._tensor(feeds[spec.name]) for spec in self.inputs}
        with torch.inference_mode():
            values = theirs.forward(self._module, tensors)
        results = self._named((values,) if isinstance(values, torch.Tensor) else values)
        self.seen.append({name: value.shape for name, value in (*feeds.items(), *results.items())})
        return results

    def _named(self, values: Any) -> dict[str, Array]:
        where = f"{type(self._module).__name__}.forward()"
        if not isinstance(values, tuple | list) or not all(isinstance(v, torch.Tensor) for v in values):
            hint = "return a tensor or a tuple of tensors"
            raise Unsupported(f"returns {type(values).__name__}", where=where, hint=hint)
        if len(values) != len(self._names):
            names = f"{len(self._names)} {'output' if len(self._names) == 1 else 'outputs'} ({', '.join(self._names)})"
            raise BadInput(
                f"returns {len(values)} tensors, declared are {names}", where=where, hint="name each of them"
            )
        return {name: value.numpy() for name, value in zip(self._names, values, strict=True)}

    def _tensor(self, value: Array) -> torch.Tensor:
        tensor = torch.from_numpy(np.asarray(value, order="C"))
        return tensor.to(self._dtype) if self._dtype is not None and tensor.is_floating_point() else tensor


def eager_sessions(source: Source, dtype: torch.dtype | None = None) -> dict[str, EagerSession]:
    """The PyTorch modules of a source as sessions, in the order they run; ``dtype`` casts a copy of the weights."""
    return {name: EagerSession(graph, dtype) for name, graph in source.graphs.items()}


def program_inputs(source: Source) -> list[TensorSpec]:
    """The inputs a user gives: graph inputs that no wire feeds, shared by name across graphs."""
    return free_inputs({name: graph.inputs for name, graph in source.graphs.items()}, source.wiring)


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


def oracle(source: Source, seed: int, real: Sequence[Case] = ()) -> tuple[Reference, str]:
    """What eager PyTorch computes on the seeded and the real cases, in its own dtype and in float64.

    Returns:
        the reference, and ``float64`` or why the module does not run in it; its golden values are absent then.

    Raises:
        BadInput: forward() fails, or does not repeat itself.
    """
    drawn = list(source.cases(seed)) if source.cases else cases.draw(program_inputs(source), seed)
    eager = eager_sessions(source)

    def run(sessions: Mapping[str, EagerSession], case: Case) -> Arrays:
        return decode.run(sessions, source.wiring, case.feeds, case.tokens)

    forced = [c if c.tokens is not None else replace(c, tokens=_forced_tokens(source, eager, c.feeds)) for c in real]
    reference = cases.answered([*drawn, *forced], "pytorch eager", lambda c: run(eager, c))
    _refuse_unsteady(reference.cases[0], lambda: run(eager, drawn[0]))
    try:
        double = eager_sessions(source, torch.float64)
        golden = [dict(run(double, case)) for case in reference.cases]
    except (EdgeattnError, RuntimeError) as error:  # a dtype written into forward(), or a module that cannot be copied
        return reference, f"no float64: {error}"
    return replace(reference, cases=tuple(map(_with_golden, reference.cases, golden))), "float64"


def _with_golden(case: Case, golden: Mapping[str, Array]) -> Case:
    return replace(case, golden=golden)


def _refuse_unsteady(case: Case, run: Callable[[], Arrays]) -> None:
    """Raise BadInput for a model that answers twice differently, and say what draws random numbers if anything does."""
    unsteady = [n for n, v in run().items() if not np.array_equal(v, case.outputs[n], equal_nan=True)]
    if not unsteady:
        return
    place, operator = obstacles.random_operator(run)
    drawn = f": {operator} draws random numbers" if operator else ""
    raise BadInput(
        f"output '{unsteady[0]}' differs between two runs on the same input{drawn}",
        where=place,
        hint="remove randomness from forward() (dropout belongs to training: training=self.training), or seed it "
        "inside; a parity gate needs a deterministic model",
    )


def _forced_tokens(source: Source, eager: Mapping[str, EagerSession], feeds: Arrays) -> Array | None:
    """The tokens that PyTorch decodes, as they are fed back; None for a program that decodes nothing."""
    wiring = source.wiring
    if wiring is None:
        return None
    tokens = decode.run(eager, wiring, feeds)["tokens"]
    if wiring.stop.first:
        return tokens[:, :-1] if tokens.shape[1] > 1 else tokens
    start = np.full((len(tokens), 1), wiring.stop.start, np.int64)
    return np.concatenate([start, tokens[:, :-1]], axis=1)


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
    dynamic = tuple({i: d for i, d in enumerate(s.shape) if isinstance(d, str)} for s in graph.inputs)
    guards = obstacles.Guards()
    try:
        with guards.listening():
            exported = torch.onnx.export(
                graph.module.eval(),
                args,
                dynamo=True,
                opset_version=max(opset, 18),  # what the exporter writes itself; 17 is made from it
                input_names=[s.name for s in graph.inputs],
                output_names=list(graph.outputs),
                dynamic_shapes=dynamic,
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
