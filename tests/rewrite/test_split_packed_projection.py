"""Packed projections taken apart: which columns go where."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeattn import registry
from edgeattn.rewrite import _apply

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "split_packed_projection")


def arrays(program):
    return {t.name: onnx.numpy_helper.to_array(t) for t in program.graphs["main"].graph.initializer}


def test_each_part_has_its_columns_and_its_part_of_the_bias():
    source = RULE.examples()[0]
    result = _apply.apply(RULE, source).program
    before, after = arrays(source), arrays(result)
    parts = [after[name] for name in ("w_part", "w_part_2", "w_part_3")]
    np.testing.assert_array_equal(np.concatenate(parts, 1), before["w"])
    biases = [after[name] for name in ("b_part", "b_part_2", "b_part_3")]
    np.testing.assert_array_equal(np.concatenate(biases), before["b"])
    assert "w" not in after


def test_the_weights_are_not_kept_twice():
    source = RULE.workload()
    result = _apply.apply(RULE, source).program
    size = [sum(a.nbytes for a in arrays(p).values() if a.dtype == np.float32) for p in (source, result)]
    assert size[0] == size[1]


def test_all_readers_must_pick_or_nothing_is_taken_apart():
    outcome = _apply.apply(RULE, RULE.near_misses()[0])
    assert outcome.count == 0
    assert [m.reason for m in outcome.misses] == ["it reads the packed values as they are"]
