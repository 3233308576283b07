"""Transposes that cancel, and the ways in which they must not."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn import registry
from edgeattn.program import Program
from edgeattn.rewrite import _apply
from edgeattn.rewrite._sample import f32, graph, i64
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "remove_transpose_pairs")
HEAD = "(float[batch,3,5] x) => (float[batch,3,5] y)"
DOWN, UP = "a = Transpose <perm = [0, 2, 1]> (x)", "y = Transpose <perm = [0, 2, 1]>"


def transposes(text, head=HEAD, **weights):
    """How many are left, after the numbers were compared."""
    source = draw_cases(Program({"main": graph(f"{head} {{ {text} }}", **weights)}))
    result = _apply.apply(RULE, source).program
    for case in source.reference.cases:
        want, have = (open_plain(p)["main"].run(case.feeds) for p in (source, result))
        for name in want:
            # a mean over at most 7 numbers of order 1, in another order
            np.testing.assert_allclose(have[name], want[name], atol=1e-6)
    return [n.op_type for n in result.graphs["main"].graph.node].count("Transpose")


def test_a_value_that_is_read_on_two_ways_between_them_is_no_obstacle():
    assert transposes(f"{DOWN}  b = Sigmoid(a)  c = Mul(a, b)  {UP} (c)") == 0


def test_three_in_a_row_become_one():
    text = """a = Transpose <perm = [1, 2, 0]> (x)  b = Transpose <perm = [1, 0, 2]> (a)
        y = Transpose <perm = [0, 2, 1]> (b)"""
    assert transposes(text, "(float[2,3,4] x) => (float[p,q,r] y)") == 1


def test_three_that_undo_each_other_leave_a_result_of_the_graph_its_name():
    text = """a = Transpose <perm = [1, 2, 0]> (x)  b = Transpose <perm = [2, 1, 0]> (a)
        y = Transpose <perm = [0, 2, 1]> (b)"""
    assert transposes(text, "(float[2,3,4] x) => (float[p,q,r] y)") == 0


def test_constants_between_them_are_turned_not_the_values():
    assert (
        transposes(f"{DOWN}  b = Mul(a, w)  c = Clip(b, low, high)  {UP} (c)", w=(5, 3), low=f32(-1.0), high=f32(1.0))
        == 0
    )


def test_a_reduction_of_both_inner_axes_is_renumbered():
    assert transposes(f"{DOWN}  m = ReduceMax(a, axes)  b = Sub(a, m)  {UP} (b)", axes=i64(1, 2)) == 0


def test_one_that_is_read_elsewhere_stays_and_the_other_goes():
    head = "(float[batch,3,5] x) => (float[batch,3,5] y, float[batch,5,3] z)"
    assert transposes(f"{DOWN}  z = Exp(a)  b = Relu(a)  {UP} (b)", head) == 1


def test_a_softmax_of_opset_11_sees_two_dimensions_and_stays():
    model = graph(f"{HEAD} {{ {DOWN}  b = Softmax <axis = 1> (a) {UP} (b) }}", opset=11)
    assert _apply.apply(RULE, Program({"main": model})).count == 0


def test_around_a_recurrent_layer_the_outer_pair_goes():
    text = """a = Transpose <perm = [1, 0, 2]> (x)  b = Transpose <perm = [1, 0, 2]> (a)
        c = Transpose <perm = [1, 0, 2]> (b)  h, last = GRU <hidden_size = 4, linear_before_reset = 1> (c, w, r)
        s = Squeeze(h, one)  y = Transpose <perm = [1, 0, 2]> (s)"""
    head = "(float[batch,3,5] x) => (float[batch,3,4] y)"
    assert transposes(text, head, w=(1, 12, 5), r=(1, 12, 4), one=i64(1)) == 2
