"""Decoder state inside the engine: ReadValue and Assign in place of a step's state inputs and outputs.

Explicit state is copied out of the engine and in again at every step. As variables it stays where it is: with FP32 on
a CPU a step of luong_dates takes 0.073 ms instead of 0.102 (1.40 times), of bahdanau_numbers 0.072 instead of 0.082
(1.14), of gpt_text 0.37 instead of 0.44 (1.20), to the same bit. (OpenVINO ReadValue-6, Assign-6, MakeStateful)
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.backends._openvino_session import OpenVinoSession, dtype_name
from edgeattn.errors import BadInput
from edgeattn.phase import native
from edgeattn.program import TensorSpec, Wiring

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays

_NOTE = ["edgeattn", "states"]
_BEGINNING = native("OpenVINO", "setting the state of a sequence")


def pairs(wiring: Wiring | None, graph: str) -> dict[str, str]:
    """State input -> state output of a step; empty where it has to stay explicit.

    What predicts the token has to remain an output, and an output can become one variable only.
    """
    if wiring is None or graph != wiring.loop:
        return {}
    found = {target.partition(".")[2]: source.partition(".")[2] for target, source in wiring.state.items()}
    shared = len(set(found.values())) < len(found) or wiring.stop.emits.partition(".")[2] in found.values()
    return {} if shared else found


def make_stateful(model: Any, states: Mapping[str, str]) -> None:
    """Turn state inputs and outputs of a model into variables, and note in it which are which."""
    from openvino._offline_transformations import apply_make_stateful_transformation

    apply_make_stateful_transformation(model, dict(states))
    # The pass calls a variable by both names together.
    model.set_rt_info(json.dumps({before + after: [before, after] for before, after in states.items()}), _NOTE)


def noted(model: Any) -> dict[str, tuple[str, str]]:
    """Variable -> the state input and output that it was; empty for a model without variables."""
    if not model.get_sinks():
        return {}
    if not model.has_rt_info(_NOTE):
        raise BadInput("keeps state that edgeattn did not put there", where="OpenVINO model", hint="compile the ONNX")
    return {name: (before, after) for name, (before, after) in json.loads(model.get_rt_info(_NOTE).astype(str)).items()}


class StatefulSession:
    """A compiled step that keeps its state; see :class:`edgeattn.program.Stateful`."""

    def __init__(self, compiled: Any, names: Sequence[str], states: Mapping[str, tuple[str, str]], model: Any) -> None:
        self._compiled, self._names, self._states = compiled, tuple(names), dict(states)
        self._idle: list[OpenVinoSession] = [OpenVinoSession(compiled, names)]
        self.inputs, self.outputs = self._idle[0].inputs, self._idle[0].outputs
        self.states = tuple(_spec(variable.get_info(), self._states) for variable in model.get_variables())

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Not without a beginning: whose state would it be?"""
        raise BadInput("keeps its state", where="step", hint="call begin(state) and run the sequence that it returns")

    def begin(self, state: Arrays) -> OngoingSequence:
        """A sequence with variables of its own, set to ``state``; they are used again when it is dropped."""
        for spec in self.states:
            if spec.name not in state:
                raise BadInput(f"missing state '{spec.name}'", hint=f"expected {spec}")
            if str(state[spec.name].dtype) != spec.dtype:
                raise BadInput(f"state '{spec.name}' is {state[spec.name].dtype}", hint=f"expected {spec}")
        one = self._idle.pop() if self._idle else OpenVinoSession(self._compiled, self._names)
        with _BEGINNING:
            for variable in one.variables():
                variable.state = _tensor(state[self._states[variable.name][0]])
        sequence = OngoingSequence(one, {name: after for name, (_, after) in self._states.items()})
        weakref.finalize(sequence, self._idle.append, one)
        return sequence


class OngoingSequence:
    """One sequence in progress; see :class:`edgeattn.program.Sequence`."""

    def __init__(self, session: OpenVinoSession, called: Mapping[str, str]) -> None:
        self._session, self._called = session, called
        self.inputs, self.outputs, self.run = session.inputs, session.outputs, session.run

    def kept(self) -> dict[str, Array]:
        """Copies of the state after the last step, as the outputs that it replaces."""
        found = {self._called[variable.name]: variable.state for variable in self._session.variables()}
        return {name: _array(tensor) for name, tensor in found.items()}


def _tensor(value: Array) -> Any:
    """A copy that belongs to the engine; it keeps truth values as bytes."""
    import openvino as ov

    return ov.Tensor(np.array(value.view(np.uint8) if value.dtype == bool else value, order="C"))


def _array(tensor: Any) -> Array:
    """A copy; of NumPy's types only truth values are kept as another, bytes."""
    value: Array = np.array(tensor.data)
    return value.view(bool) if tensor.element_type.get_type_name() in ("boolean", "char") else value


def _spec(variable: Any, states: Mapping[str, tuple[str, str]]) -> TensorSpec:
    shape = tuple("?" if d.is_dynamic else d.get_length() for d in variable.data_shape)
    return TensorSpec(states[variable.variable_id][0], dtype_name(variable.data_type.get_type_name()), shape)
