"""Fixed lengths: what is padded gives what it gives unpadded, and what is too long is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("openvino")

from edgeattn import backends, decode, opened, registry, storage
from edgeattn.backends import Options
from edgeattn.buckets import TooLong
from edgeattn.errors import BadInput, IntegrityError, Unsupported
from edgeattn.program import Program
from edgeattn.rewrite._sample import graph

pytestmark = pytest.mark.openvino
BACKEND = registry.get("backends", "openvino")
OPTIONS = Options(threads=1, buckets=(4, 16))


def pooling() -> onnx.ModelProto:
    """Masked attention pooling over a sequence; its weights are an output that follows the length."""
    return graph(
        """(float[1,length,8] x, bool[1,length] mask) => (float[1,8] pooled, float[1,length] weights) {
            s = MatMul(x, w)  scores = Squeeze(s, last)  masked = Where(mask, scores, low)
            weights = Softmax <axis = -1> (masked)  row = Unsqueeze(weights, one)
            summed = MatMul(row, x)  pooled = Squeeze(summed, one) }""",
        w=(8, 1),
        last=np.array([-1]),
        one=np.array([1]),
        low=np.array(-np.inf, np.float32),
    )


def mean() -> onnx.ModelProto:
    """The mean over a sequence: padding changes it."""
    text = "(float[1,length,8] x) => (float[1,8] y) { y = ReduceMean <keepdims = 0> (x, axis) }"
    return graph(text, axis=np.array([1]))


def cache() -> onnx.ModelProto:
    """A state that grows by one behind what it was."""
    return graph("(float[1,past,8] x, float[1,1,8] new) => (float[1,present,8] y) { y = Concat <axis = 1> (x, new) }")


def feeds(length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(length)
    mask = np.ones((1, length), bool)
    mask[0, length // 2 + 1 :] = False
    return {"x": rng.standard_normal((1, length, 8)).astype(np.float32), "mask": mask}


def built(model: onnx.ModelProto, folder: Path, options: Options = OPTIONS) -> backends.Engine:
    return BACKEND.compile(Program({"main": model}), options, folder)


def test_every_length_gives_what_it_gives_without_padding_and_weights_are_stored_once(tmp_path: Path) -> None:
    engine = built(pooling(), tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["main.16.xml", "main.4.xml", "main.bin", "main.json"]
    session = BACKEND.open(tmp_path / engine.files["main"], OPTIONS)
    whole = BACKEND.load(pooling(), Options(threads=1))
    assert [str(s) for s in session.inputs] == ["x: float32[1, length, 8]", "mask: bool[1, length]"]
    assert str(session.outputs[1]) == "weights: float32[1, length]"
    for length in (1, 3, 4, 5, 16):
        want, got = whole.run(feeds(length)), session.run(feeds(length))
        for name in want:
            # The same FP32 sums with zeros among them, in another order: a few units of 6e-8.
            np.testing.assert_allclose(got[name], want[name], atol=1e-6, rtol=0)


def test_a_length_beyond_the_largest_bucket_is_told(tmp_path: Path) -> None:
    session = BACKEND.open(tmp_path / built(pooling(), tmp_path).files["main"], OPTIONS)
    with pytest.raises(TooLong, match="'length' is 17, and the largest bucket is 16; cut it to 16, or compile with"):
        session.run(feeds(17))
    with pytest.raises(BadInput, match="'length' is 3 in input 'x' and 4 in 'mask'"):
        session.run({"x": feeds(3)["x"], "mask": feeds(4)["mask"]})
    with pytest.raises(BadInput, match="missing input 'mask'"):
        session.run({"x": feeds(3)["x"]})


def test_what_a_step_puts_behind_its_cache_stays_behind_what_is_real(tmp_path: Path) -> None:
    session = BACKEND.open(tmp_path / built(cache(), tmp_path).files["main"], OPTIONS)
    past, new = np.arange(24, dtype=np.float32).reshape(1, 3, 8), np.full((1, 1, 8), 9, np.float32)
    np.testing.assert_array_equal(session.run({"x": past, "new": new})["y"], np.concatenate([past, new], 1))


def test_a_model_that_padding_changes_is_refused_and_a_masked_one_keeps_the_cases_that_fit(tmp_path: Path) -> None:
    for model, folder in ((pooling(), tmp_path / "a"), (mean(), tmp_path / "b")):
        folder.mkdir()
        program = storage.with_reference(Program({"main": model}), backends.oracle)
        sessions, place = opened.engine(BACKEND, built(model, folder))
        assert place == ""
        if model.graph.output[0].name == "y":
            with pytest.raises(Unsupported, match="padded to a bucket it answers otherwise"):
                opened.unpadded(program, sessions, "fp32")
        else:
            kept = opened.unpadded(program, sessions, "fp32").reference
            assert kept is not None
            assert all(case.feeds["x"].shape[1] <= 16 for case in kept.cases)
            decode.run(sessions, None, kept.cases[0].feeds)


def test_two_dynamic_lengths_are_refused_with_what_to_fix() -> None:
    model = graph("(float[1,height,width] x) => (float[1,height,width] y) { y = Relu(x) }")
    (refusal,) = BACKEND.unsupported(Program({"main": model}), OPTIONS)
    assert "there are 2: height, width" in refusal.reason
    assert refusal.hint == "fix the others: --fix width=N"


def test_an_index_that_is_none_is_an_integrity_error(tmp_path: Path) -> None:
    built(pooling(), tmp_path)
    (tmp_path / "main.json").write_text('{"sizes": 3}')
    with pytest.raises(IntegrityError, match="is no index of buckets"):
        BACKEND.open(tmp_path / "main.json", OPTIONS)
