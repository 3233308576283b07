from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeattn import backends, decode
from edgeattn.errors import BadInput
from edgeattn.program import Program, Stop, Wiring
from tests.graphs import conv_net, counter

pytestmark = pytest.mark.onnxruntime


def counting() -> Program:
    graphs, wiring = counter()
    return Program(graphs, Wiring(wiring["feeds"], wiring["state"], Stop(**wiring["stop"])))


def test_decodes_until_every_sequence_has_ended_and_pads_with_the_end_token() -> None:
    program = counting()
    begin = np.array([[0.0], [3.0]], np.float32)
    outputs = decode.run(backends.oracle(program), program.wiring, {"begin": begin})
    assert outputs["tokens"].tolist() == [[1, 2, 3, 4, 5], [4, 5, 5, 5, 5]]
    assert outputs["logits"].shape == (5, 2, 8)


def test_feeds_each_emitted_token_back() -> None:
    program = counting()
    outputs = decode.run(backends.oracle(program), program.wiring, {"begin": np.zeros((1, 1), np.float32)})
    assert outputs["echo"][:, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_stops_at_the_step_limit_when_no_end_token_comes() -> None:
    program = counting()
    begin = np.array([[9.0]], np.float32)  # past the end token: argmax stays at the last class
    outputs = decode.run(backends.oracle(program), program.wiring, {"begin": begin})
    assert outputs["tokens"].shape == (1, 7)


def test_forced_tokens_replace_the_models_own() -> None:
    program = counting()
    tokens = np.array([[7, 6, 5]], np.int64)
    outputs = decode.run(backends.oracle(program), program.wiring, {"begin": np.zeros((1, 1), np.float32)}, tokens)
    assert outputs["echo"][:, 0].tolist() == [7.0, 6.0, 5.0]
    assert "tokens" not in outputs


def test_another_graph_may_predict_the_first_token() -> None:
    program = counting()
    wiring = program.wiring
    assert wiring is not None
    first = Wiring(wiring.feeds, wiring.state, replace(wiring.stop, first="prefill.logits"))
    prefill = Fixed({"logits": np.eye(8, dtype=np.float32)[[2, 5]]})
    outputs = decode.run(
        {"prefill": prefill, **backends.oracle(program)}, first, {"begin": np.array([[2.0], [5.0]], np.float32)}
    )
    assert outputs["tokens"].tolist() == [[2, 3, 4, 5], [5, 5, 5, 5]]
    assert outputs["logits"].shape == (3, 2, 8)
    assert np.array_equal(outputs["prefill.logits"], prefill.values["logits"])


def test_a_first_token_that_ends_every_sequence_needs_no_step() -> None:
    program = counting()
    wiring = program.wiring
    assert wiring is not None
    first = Wiring(wiring.feeds, wiring.state, replace(wiring.stop, first="prefill.logits"))
    prefill = Fixed({"logits": np.eye(8, dtype=np.float32)[[5]]})
    outputs = decode.run(
        {"prefill": prefill, **backends.oracle(program)}, first, {"begin": np.zeros((1, 1), np.float32)}
    )
    assert outputs["tokens"].tolist() == [[5]]


def test_of_an_output_that_grows_the_last_is_returned() -> None:
    program = counting()
    assert program.wiring is not None
    sessions = {"step": Growing(backends.oracle(program)["step"]), "encoder": backends.oracle(program)["encoder"]}
    outputs = decode.run(sessions, program.wiring, {"begin": np.zeros((1, 1), np.float32)}, np.array([[1, 2, 3]]))
    assert outputs["cache"].shape == (1, 3)
    assert outputs["logits"].shape == (3, 1, 8)


class Fixed:
    """A session that always gives the same."""

    inputs = outputs = ()

    def __init__(self, values):
        self.values = values

    def run(self, feeds):
        return self.values


class Growing:
    """A session with one more output, a column longer at every call."""

    def __init__(self, session):
        self.session, self.inputs, self.outputs, self.calls = session, session.inputs, session.outputs, 0

    def run(self, feeds):
        self.calls += 1
        return {**self.session.run(feeds), "cache": np.zeros((1, self.calls))}


def test_a_state_without_a_feed_starts_at_zero() -> None:
    program = counting()
    assert program.wiring is not None
    unfed = Wiring({}, program.wiring.state, program.wiring.stop)
    outputs = decode.run(backends.oracle(program), unfed, {"begin": np.full((1, 1), 3.0, np.float32)})
    assert outputs["tokens"][0, 0] == 1


def test_a_missing_input_is_named_with_its_type_and_shape() -> None:
    program = Program({"main": conv_net()})
    with pytest.raises(BadInput, match=r"missing input image: float32\[batch, 3, 8, 8\]"):
        decode.run(backends.oracle(program), None, {})
