"""Eager PyTorch: a source's modules behind the Session interface, and the oracle every later stage is judged by."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edgeattn import cases, decode, obstacles, theirs
from edgeattn.errors import BadInput, EdgeattnError, Unsupported
from edgeattn.models import GraphSource, Source
from edgeattn.program import Case, Reference, TensorSpec, free_inputs

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays


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

    def round_weights(self, seed: int) -> None:
        """Move every weight of this session's copy up or down by 2⁻²³ of itself, a float32 unit, at random.

        Folding a BatchNorm rounds four times on the way to one weight, by half a unit each.
        """
        assert self._dtype is not None, "only a copy may be changed"
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self._module.parameters():
                if weight.is_floating_point():
                    weight.mul_(1 + 2.0**-23 * (2 * torch.randint(2, weight.shape, generator=random) - 1))

    def _tensor(self, value: Array) -> torch.Tensor:
        tensor = torch.from_numpy(np.asarray(value, order="C"))
        return tensor.to(self._dtype) if self._dtype is not None and tensor.is_floating_point() else tensor


def eager_sessions(source: Source, dtype: torch.dtype | None = None) -> dict[str, EagerSession]:
    """The PyTorch modules of a source as sessions, in the order they run; ``dtype`` casts a copy of the weights."""
    return {name: EagerSession(graph, dtype) for name, graph in source.graphs.items()}


def program_inputs(source: Source) -> list[TensorSpec]:
    """The inputs a user gives: graph inputs that no wire feeds, shared by name across graphs."""
    return free_inputs({name: graph.inputs for name, graph in source.graphs.items()}, source.wiring)


def oracle(source: Source, seed: int, real: Sequence[Case] = ()) -> tuple[Reference, str]:
    """What eager PyTorch computes on the seeded and the real cases, in its own dtype and in float64.

    The float64 runs are repeated with weights moved by a unit in their last place: where a network is so sensitive to
    an input that this alone moves its outputs, how close PyTorch comes is luck, and an engine that folds BatchNorms,
    and so rounds the weights anew, cannot be held to it.

    Args:
        source: modules, specs and wiring.
        seed: fixes the inputs and the moves.
        real: cases of real data; of a wired program, those without tokens are forced to what PyTorch decodes.

    Returns:
        the reference, and ``float64`` or why the module does not run in it; golden and rounded values are absent then.

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
        answered = [replace(c, golden=dict(run(double, c))) for c in reference.cases]
    except (EdgeattnError, RuntimeError) as error:  # a dtype written into forward(), or a module that cannot be copied
        return reference, f"no float64: {error}"
    for session in double.values():
        session.round_weights(seed)
    return replace(reference, cases=tuple(replace(c, rounded=dict(run(double, c))) for c in answered)), "float64"


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
