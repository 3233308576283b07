"""Projections side by side: measured, and the weights where they belong."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeattn import registry
from edgeattn import rewrite as stage
from edgeattn.rewrite import Choice, _apply
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "merge_projections")


def arrays(program):
    return {t.name: onnx.numpy_helper.to_array(t) for t in program.graphs["main"].graph.initializer}


def test_without_a_target_it_is_left_alone():
    result = stage.rewrite(draw_cases(RULE.examples()[0]), open_plain)
    record = next(r for r in result.history[-1].notes["rules"] if r["rule"] == RULE.name)
    assert record["note"].startswith("fits 1 times, but left alone")


def test_where_it_is_faster_it_stays_with_a_split_that_names_what_others_read():
    faster = Choice(True, "onnxruntime:cpu", 1.4, (1.3, 1.5), "faster")
    result = stage.rewrite(
        draw_cases(RULE.examples()[0]), open_plain, only=[RULE.name], chooser=lambda before, after: faster
    )
    nodes = result.graphs["main"].graph.node
    assert [n.op_type for n in nodes] == ["MatMul", "Add", "Split"]
    assert list(nodes[-1].output) == ["a", "b", "c"]


def test_a_projection_without_a_bias_gets_zeros_beside_one_that_has_one():
    source = RULE.examples()[2]
    after = arrays(_apply.apply(RULE, source).program)
    (bias,) = [a for n, a in after.items() if n.endswith("merged_bias")]
    np.testing.assert_array_equal(bias, np.concatenate([arrays(source)["bq"], np.zeros(8, np.float32)]))


def test_gemms_bring_their_factor_and_their_order_along():
    source = RULE.examples()[3]
    before, after = arrays(source), arrays(_apply.apply(RULE, source).program)
    (weight,) = [a for n, a in after.items() if n.endswith("merged")]
    np.testing.assert_array_equal(weight, np.concatenate([before["wt"].T / 2, before["wk"]], 1))
