"""A decoder's step that runs again and again in ONNX Runtime, with little done between two runs.

What a step reads and writes is bound once, to two sets of buffers that take turns: a step reads the state where the one
before wrote it. A call of ``run`` looks at every input and makes every output anew, which took 4 to 5 % of a step in
INT8 (2×LSTM-512 and a GRU-512, vocabulary 8,000, two threads).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from edgeattn.errors import BadInput
from edgeattn.program import TensorSpec

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays


class Bindable(Protocol):
    """A session that runs with what was bound."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run once."""
        ...

    def binding(self) -> Any:
        """A new binding."""
        ...

    def run_bound(self, binding: Any) -> None:
        """Run once with a binding."""
        ...


def keeps_sizes(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], state: Mapping[str, str]) -> bool:
    """Whether every output has the size that it had at the first step, as the graph declares it."""
    known = {dim for spec in inputs for dim in spec.shape}
    shapes = {spec.name: spec.shape for spec in (*inputs, *outputs)}
    sized = all(isinstance(dim, int) or (dim in known and dim != "?") for spec in outputs for dim in spec.shape)
    return sized and all(shapes[read] == shapes[written] for read, written in state.items())


class Held:
    """A session for one sequence of steps, whose caller feeds back exactly what came out.

    Args:
        session: what it runs in. state: input -> the output of the step before that it takes.
        fixed: inputs that are the same in every step.
        share: makes an engine's value in the memory of an array.
        read: the outputs that are given, each until the next step overwrites it; None gives copies of all, to keep.
    """

    def __init__(
        self,
        session: Bindable,
        state: Mapping[str, str],
        fixed: frozenset[str],
        share: Callable[[Array], Any],
        read: frozenset[str] | None = None,
    ) -> None:
        self.inputs, self.outputs = session.inputs, session.outputs
        self._given = read
        self._session, self._state, self._share = session, state, share
        self._changing = [s.name for s in session.inputs if s.name not in state and s.name not in fixed]
        self._read: dict[str, Array] = {}
        self._turns: list[dict[str, Array]] = []
        self._bindings: list[Any] = []

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """The next step: the first runs as any call does and shows the sizes, later ones read what is bound."""
        if not self._bindings:
            outputs = self._session.run(feeds)
            self._read = {name: np.array(value, order="C") for name, value in feeds.items() if name not in self._state}
            self._turns = [{name: np.array(value, order="C") for name, value in outputs.items()} for _ in range(2)]
            self._bindings = [self._bound(*self._turns), self._bound(*reversed(self._turns))]
            return outputs
        for name in self._changing:
            if self._read[name].shape != feeds[name].shape or self._read[name].dtype != feeds[name].dtype:
                raise BadInput(f"input '{name}' changes its size or type", hint="hold a session for each sequence")
            self._read[name][...] = feeds[name]
        self._session.run_bound(self._bindings[0])
        written = self._turns[0]
        self._turns.reverse()
        self._bindings.reverse()
        if self._given is None:
            return {name: value.copy() for name, value in written.items()}
        return {name: written[name] for name in self._given}

    def _bound(self, written: Arrays, before: Arrays) -> Any:
        """A binding that writes one set of buffers and reads the state from the other."""
        binding = self._session.binding()
        for name, value in {**self._read, **{to: before[origin] for to, origin in self._state.items()}}.items():
            binding.bind_ortvalue_input(name, self._share(value))
        for name, value in written.items():
            binding.bind_ortvalue_output(name, self._share(value))
        return binding
