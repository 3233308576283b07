"""PyTorch's guard against NaN goes where the masks are finite, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeattn import registry
from edgeattn import rewrite as stage
from edgeattn.program import Case, Program, Reference
from edgeattn.rewrite import _apply
from edgeattn.rewrite._sample import f32, graph
from tests.rewrite.engine import open_plain

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "remove_nan_guard")


def guarded(low):
    """One head over five keys, a bool mask of which the first row hides all."""
    model = graph(
        """(float[2,1,4] q, float[2,4,5] k, float[2,5,4] v, bool[2,1,5] pad) => (float[2,1,4] y) {
            z = MatMul(q, k)  b = Where(pad, low, zero)  m = Add(z, b)  a = Softmax <axis = 2> (m)
            n = IsNaN(a)  g = Where(n, zero, a)  y = MatMul(g, v) }""",
        low=f32(low),
        zero=f32(0.0),
    )
    rng = np.random.default_rng(0)
    feeds = {
        n: rng.standard_normal(s).astype(np.float32) for n, s in (("q", (2, 1, 4)), ("k", (2, 4, 5)), ("v", (2, 5, 4)))
    }
    feeds["pad"] = np.array([[[True] * 5], [[False, False, True, True, True]]])
    return Program({"main": model}, reference=Reference("source graph", (Case("first row hidden", feeds),)))


def operators(program):
    return [n.op_type for n in program.graphs["main"].graph.node]


def test_with_masks_of_minus_infinity_a_hidden_row_still_gives_zeros():
    source = guarded(-np.inf)
    result = stage.rewrite(source, open_plain)
    assert [r["rule"] for r in result.history[-1].notes["rules"] if "undone" in r] == []
    assert "IsNaN" not in operators(result)
    y = open_plain(result)["main"].run(source.reference.cases[0].feeds)["y"]
    np.testing.assert_array_equal(y[0], 0)
    assert np.abs(y[1]).min() > 0


def test_alone_it_does_not_touch_minus_infinity():
    source = guarded(-np.inf)
    assert _apply.apply(RULE, source).count == 0
    assert "IsNaN" in operators(stage.rewrite(source, open_plain, only=["remove_nan_guard"]))


def test_a_finite_number_that_the_score_may_push_over_the_edge_counts_as_infinite():
    assert _apply.apply(RULE, guarded(np.finfo(np.float32).min)).count == 0
    assert _apply.apply(RULE, guarded(-1e9)).count == 1


def test_nan_in_the_queries_is_no_longer_hidden_and_the_stage_says_so():
    source = guarded(-1e4)
    feeds = dict(source.reference.cases[0].feeds)
    feeds["q"] = np.full_like(feeds["q"], np.nan)
    poisoned = replace(source, reference=Reference("source graph", (Case("nan", feeds),)))
    (record,) = stage.rewrite(poisoned, open_plain, only=["remove_nan_guard"]).history[-1].notes["rules"]
    assert "NaN or Inf at other places" in record["undone"]
