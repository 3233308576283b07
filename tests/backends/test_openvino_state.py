"""A decoder's state inside the engine: to the bit what explicit state gives, and each sequence has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino")

from edgeattn import decode, registry
from edgeattn.backends import Options
from edgeattn.errors import BadInput
from edgeattn.program import Program, Stateful, Stop, Wiring
from edgeattn.rewrite._sample import graph

pytestmark = pytest.mark.openvino
BACKEND = registry.get("backends", "openvino")
STOP = Stop("step.token", "step.logits", start=0, end=7, max_steps=6)
STATES = {"step.h": "step.h_out", "step.past": "step.past_out", "step.seen": "step.seen_out"}


def decoder(emits: str = "step.logits") -> Program:
    """A recurrent state, a cache that grows, and a mask of truth values that grows with it."""
    rng = np.random.default_rng(0)
    first = graph(
        """(float[batch,prompt,8] x) => (float[batch,8] h, float[batch,prompt,8] past, bool[batch,prompt] seen) {
            h = ReduceMean <keepdims = 0> (x, one)  past = Tanh(x)  peak = ReduceMax <keepdims = 0> (x, last)
            seen = Greater(peak, zero) }""",
        one=np.array([1]),
        last=np.array([2]),
        zero=np.zeros((), np.float32),
    )
    step = graph(
        """(int64[batch] token, float[batch,8] h, float[batch,past] unused, float[batch,past,8] past,
            bool[batch,past] seen) => (float[batch,8] logits, float[batch,8] h_out, float[batch,longer,8] past_out,
            bool[batch,longer] seen_out) {
            e = Gather(table, token)  mixed = MatMul(h, w)  sum = Add(mixed, e)  h_out = Tanh(sum)
            row = Unsqueeze(h_out, one)  past_out = Concat <axis = 1> (past, row)
            mark = Greater(h_out, zero)  first = Gather <axis = 1> (mark, start)
            seen_out = Concat <axis = 1> (seen, first)  weight = Cast <to = 1> (seen_out)
            wide = Unsqueeze(weight, one)  context = MatMul(wide, past_out)  flat = Squeeze(context, one)
            logits = Add(flat, h_out) }""".replace("float[batch,past] unused, ", ""),
        table=rng.standard_normal((8, 8)).astype(np.float32),
        w=rng.standard_normal((8, 8)).astype(np.float32),
        one=np.array([1]),
        start=np.array([0]),
        zero=np.zeros((), np.float32),
    )
    feeds = {"step.h": "encoder.h", "step.past": "encoder.past", "step.seen": "encoder.seen"}
    stop = Stop(STOP.token, emits, STOP.start, STOP.end, STOP.max_steps)
    return Program({"encoder": first, "step": step}, Wiring(feeds, STATES, stop))


def sessions(program: Program, folder: Path, **asked: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    options = Options(threads=1, settings=asked)
    built = BACKEND.compile(program, options, folder)
    return {graph: BACKEND.open(folder / file, options) for graph, file in built.files.items()}


def prompt(seed: int, batch: int = 2) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal((batch, 3 + seed, 8)).astype(np.float32)}


def test_is_to_the_bit_what_explicit_state_gives_state_included(tmp_path: Path) -> None:
    program = decoder()
    kept = sessions(program, tmp_path / "kept")
    explicit = sessions(program, tmp_path / "explicit", stateful=False)
    assert isinstance(kept["step"], Stateful)
    assert not isinstance(explicit["step"], Stateful)
    assert {str(spec) for spec in kept["step"].states} == {
        "h: float32[?, 8]",
        "past: float32[?, ?, 8]",
        "seen: bool[?, ?]",
    }
    for seed in (0, 1):  # another length and another batch after the first: nothing is left behind
        tokens = np.random.default_rng(seed).integers(0, 7, (2 - seed, 5))
        want, got = (decode.run(s, program.wiring, prompt(seed, 2 - seed), tokens) for s in (explicit, kept))
        assert set(want) == set(got) == {"logits", "h_out", "past_out", "seen_out"}
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])
    want, got = (decode.run(s, program.wiring, prompt(0)) for s in (explicit, kept))
    np.testing.assert_array_equal(got["tokens"], want["tokens"])
    assert set(got) == {"logits", "tokens"}  # decoding pays for no copy of the state


def test_two_sequences_at_once_do_not_touch_each_other(tmp_path: Path) -> None:
    program = decoder()
    step = sessions(program, tmp_path)["step"]
    rng = np.random.default_rng(3)

    def state(rows: int) -> dict[str, np.ndarray]:
        return {
            "h": rng.standard_normal((rows, 8)).astype(np.float32),
            "past": rng.standard_normal((rows, 2, 8)).astype(np.float32),
            "seen": np.ones((rows, 2), bool),
        }

    first, second, token = state(1), state(1), {"token": np.array([3])}
    alone = step.begin(first).run(token)["logits"]
    one, other = step.begin(first), step.begin(second)
    other.run(token)
    np.testing.assert_array_equal(one.run(token)["logits"], alone)
    assert one.kept()["seen_out"].dtype == bool


def test_a_step_that_keeps_its_state_says_how_it_is_run(tmp_path: Path) -> None:
    step = sessions(decoder(), tmp_path)["step"]
    with pytest.raises(BadInput, match=r"call begin\(state\)"):
        step.run({"token": np.array([0])})
    with pytest.raises(BadInput, match="missing state"):
        step.begin({})


def test_state_stays_explicit_where_the_token_is_read_from_it(tmp_path: Path) -> None:
    step = sessions(decoder(emits="step.h_out"), tmp_path)["step"]
    assert not isinstance(step, Stateful)
