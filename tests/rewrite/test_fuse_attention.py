"""Attention as one operator, in the opsets that have it."""

from __future__ import annotations

import pytest

from edgeattn import registry
from edgeattn import rewrite as stage
from edgeattn.rewrite import _apply
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "fuse_attention")


def attributes(program):
    node = program.graphs["main"].graph.node[-1]
    assert node.op_type == "Attention"
    return {a.name: a.f for a in node.attribute}


def test_the_scale_is_written_even_where_it_is_one():
    scaled, masked, _ = (_apply.apply(RULE, example).program for example in RULE.examples())
    assert attributes(scaled) == {"scale": 0.5}
    assert attributes(masked) == {"scale": 1.0}, "without one the operator would divide by the root of the width"


def test_keys_in_the_projections_order_are_turned_to_stand_by_heads():
    result = _apply.apply(RULE, RULE.examples()[2]).program
    turn = result.graphs["main"].graph.node[0]
    assert (turn.op_type, list(turn.attribute[0].ints)) == ("Transpose", [0, 2, 1, 3])


def test_an_older_opset_is_told_which_one_it_needs():
    (told, *_) = stage.why_not(RULE.name, RULE.near_misses()[0])
    assert told.reason == "Attention exists from opset 23 on, this graph has 18"


def test_without_a_target_it_is_left_alone():
    result = stage.rewrite(draw_cases(RULE.examples()[0]), open_plain)
    assert "Attention" not in [n.op_type for n in result.graphs["main"].graph.node]
