from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeattn import backends, decode
from edgeattn.backends._onnxruntime_steps import Held, keeps_sizes
from edgeattn.errors import BadInput
from edgeattn.program import Program, Stop, TensorSpec, Wiring
from edgeattn.rewrite import _loop_samples
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


@pytest.mark.parametrize("tokens", [None, np.array([[3, 1, 2, 4, 1], [0, 2, 4, 3, 2]])], ids=["greedy", "forced"])
def test_steps_that_are_bound_once_give_what_single_runs_give(tokens) -> None:
    """A decoder with attention, whose encoder hands over a memory and a state."""
    program = _loop_samples.wired()
    wiring, sessions = program.wiring, backends.oracle(program)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    bound = decode.run(sessions, wiring, feeds, tokens)
    plain = decode.run({name: Alone(session) for name, session in sessions.items()}, wiring, feeds, tokens)
    assert set(bound) == set(plain)
    assert len(bound["logits"]) >= 5  # both sets of buffers took their turn, twice
    assert all(np.array_equal(bound[name], plain[name]) for name in bound)


@pytest.mark.parametrize("tokens", [None, np.array([[3, 1, 2, 4, 1], [0, 2, 4, 3, 2]])], ids=["greedy", "forced"])
@pytest.mark.parametrize("asked", [(), ("logits",), ("h_out",)], ids=["nothing", "logits", "a state"])
def test_only_what_is_asked_for_is_returned_and_later_steps_leave_it_alone(tokens, asked) -> None:
    program = _loop_samples.wired()
    sessions = backends.oracle(program)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    whole = decode.run(sessions, program.wiring, feeds, tokens)
    found = decode.run(sessions, program.wiring, feeds, tokens, asked)
    assert set(found) == {*asked, *({"tokens"} if tokens is None else ())}
    assert all(np.array_equal(found[name], whole[name]) for name in found)


def test_an_output_that_nobody_gives_is_named_with_those_that_are() -> None:
    program = _loop_samples.wired()
    feeds = {"x": np.zeros((1, 3, 4), np.float32)}
    with pytest.raises(BadInput, match=r"there is no output 'weights' to give.*logits"):
        decode.run(backends.oracle(program), program.wiring, feeds, outputs=["weights"])


def test_a_bound_step_gives_what_is_read_from_it_and_no_more() -> None:
    """Without a copy: what the step after the next gives lies where this one's lay."""
    program = counting()
    assert program.wiring is not None
    step = backends.oracle(program)["step"]
    feeds = {
        spec.name: np.zeros([1 if isinstance(d, str) else d for d in spec.shape], spec.dtype) for spec in step.inputs
    }
    links = {to.split(".")[1]: source.split(".")[1] for to, source in program.wiring.state.items()}
    held = step.hold(links, frozenset(feeds.keys() - links.keys() - {"token"}), frozenset({"echo"}))
    held.run(feeds)
    results = [held.run({**feeds, "token": np.array([token])}) for token in (3, 5, 6)]
    assert all(set(result) == {"echo"} for result in results)
    assert np.shares_memory(results[0]["echo"], results[2]["echo"])
    assert float(results[1]["echo"].reshape(())) == 5


def test_steps_are_bound_only_where_every_size_stays() -> None:
    shaped = lambda name, *shape: TensorSpec(name, "float32", shape)  # noqa: E731
    inputs = (shaped("h", "batch", 4), shaped("cache", "batch", "past", 4))
    state = {"h": "h_out"}
    assert keeps_sizes(inputs, (shaped("h_out", "batch", 4), shaped("logits", "batch", 8)), state)
    assert not keeps_sizes(inputs, (shaped("h_out", "batch", 4), shaped("found", "unk", 8)), state)
    grows = (shaped("h_out", "batch", 4), shaped("cache_out", "batch", "total", 4))
    assert not keeps_sizes(inputs, grows, {**state, "cache": "cache_out"})
    assert not keeps_sizes((*inputs, shaped("x", "?")), (shaped("h_out", "batch", 4), shaped("y", "?")), state)


def test_what_a_bound_step_is_given_and_gives_stays_the_callers() -> None:
    program = counting()
    assert program.wiring is not None
    step = backends.oracle(program)["step"]
    feeds = {
        spec.name: np.zeros([1 if isinstance(d, str) else d for d in spec.shape], spec.dtype) for spec in step.inputs
    }
    links = {to.split(".")[1]: source.split(".")[1] for to, source in program.wiring.state.items()}
    held = step.hold(links, frozenset(feeds.keys() - links.keys() - {"token"}))
    assert isinstance(held, Held)
    given = {name: value.copy() for name, value in feeds.items()}
    results = [held.run({**feeds, "token": np.array([token])}) for token in (3, 5, 6, 2)]
    assert [float(result["echo"].reshape(())) for result in results] == [3, 5, 6, 2]
    assert all(np.array_equal(value, given[name]) for name, value in feeds.items())
    with pytest.raises(BadInput, match="input 'token' changes its size or type"):
        held.run({**feeds, "token": np.array([1, 2])})


class Alone:
    """A session that can only be run."""

    def __init__(self, session):
        self.run, self.inputs, self.outputs = session.run, session.inputs, session.outputs


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
