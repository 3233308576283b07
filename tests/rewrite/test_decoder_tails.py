"""Greedy and beam tails: where the logits and the probabilities disagree, and who is right."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn import registry
from edgeattn.program import Program
from edgeattn.rewrite import _apply
from edgeattn.rewrite._sample import graph, i64
from tests.rewrite.engine import open_plain

pytestmark = pytest.mark.onnxruntime
GREEDY, BEAM = (registry.get("rewrite", name) for name in ("remove_softmax_before_argmax", "split_log_softmax"))


def both(rule, number, **feeds):
    """What an example gives before and after the rule."""
    source = rule.examples()[number]
    result = _apply.apply(rule, source).program
    return [open_plain(p)["main"].run(feeds) for p in (source, result)]


def test_the_first_of_equal_logits_stays_the_first():
    before, after = both(GREEDY, 0, x=np.array([[1, 3, 3, 0, 3]], np.float32))
    assert before["y"] == after["y"] == 1


def test_the_last_of_equals_is_taken_where_the_graph_asks_for_it():
    before, after = both(GREEDY, 3, x=np.array([[[1, 3, 3, 0, 3]]], np.float32))
    assert before["y"] == after["y"] == 4


def test_logits_that_softmax_rounds_together_are_told_apart():
    x = np.array([[1, np.nextafter(np.float32(1), np.float32(2)), 9, 9, 9]], np.float32)
    x[:, 2:] = -np.inf
    before, after = both(GREEDY, 1, x=x)
    assert after["y"] == 1, "the larger logit"
    assert before["y"] in (0, 1), "a tie after rounding, of which the first is taken"


def test_masked_logits_are_never_chosen():
    before, after = both(GREEDY, 0, x=np.array([[-np.inf, -1e30, -np.inf, 5, -np.inf]], np.float32))
    assert before["y"] == after["y"] == 3


@pytest.mark.openvino
def test_the_normaliser_of_large_logits_does_not_overflow_on_any_engine():
    from edgeattn.backends import Options

    x = np.full((1, 9), -1e4, np.float32)
    x[0, [2, 5]] = 1e4, 1e4 - 1
    result = _apply.apply(BEAM, BEAM.examples()[0]).program
    for engine in ("onnxruntime", "openvino"):
        session = registry.get("backends", engine).load(result.graphs["main"], Options("cpu", "fp32", 1))
        found = session.run({"x": x})
        assert found["i"].tolist() == [[2, 5]]
        # float32 resolves 1e4 to 1e-3, and the normaliser of two such logits is 1e4 + log(1 + 1/e)
        np.testing.assert_allclose(found["v"], [[-0.3133, -1.3133]], atol=2e-3)


def test_the_indices_keep_their_type_and_names():
    result = _apply.apply(BEAM, BEAM.examples()[0]).program.graphs["main"].graph
    assert [o.name for o in result.output] == ["v", "i"]
    assert [o.type.tensor_type.elem_type for o in result.output] == [1, 7]


def test_a_unit_that_keeps_the_probabilities_keeps_its_softmax():
    model = graph(
        """(float[batch,5] x) => (float[batch,2] v, int64[batch,2] i, float[batch,5] p) {
            p = LogSoftmax(x)
            v, i = TopK(p, k) }""",
        k=i64(2),
    )
    (found,) = _apply.apply(BEAM, Program({"main": model})).misses
    assert found.reason == "the log-probabilities are read elsewhere too"
