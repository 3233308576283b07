from __future__ import annotations

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
