"""Operators that change nothing, told from those that only look so."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn import registry
from edgeattn.program import Program
from edgeattn.rewrite import _apply
from edgeattn.rewrite._sample import f32, graph, i64

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "remove_noops")


def left(text, opset=18, **weights):
    model = graph(text, opset=opset, **weights)
    result = _apply.apply(RULE, Program({"main": model})).program.graphs["main"]
    return [n.op_type for n in result.graph.node]


def test_a_chain_of_them_goes_at_once():
    text = """(float[batch,4] x) => (float[batch,4] y) {
        a = Cast <to = 1> (x)  b = Mul(a, one)  c = Transpose <perm = [0, 1]> (b)  d = Add(zero, c)  y = Relu(d) }"""
    assert left(text, one=f32(1.0), zero=f32(0.0)) == ["Relu"]


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("a = Sub(zero, x)  y = Relu(a)", {"zero": f32(0.0)}),  # the negative
        ("a = Div(one, x)  y = Relu(a)", {"one": f32(1.0)}),  # the reciprocal
        ("a = Slice(x, s, e, axis, step)  y = Relu(a)", {"s": i64(0), "e": i64(9), "axis": i64(1), "step": i64(2)}),
        ("a = Slice(x, s, e, axis)  y = Relu(a)", {"s": i64(0), "e": i64(-1), "axis": i64(1)}),
    ],
)
def test_what_does_change_something_stays(text, weights):
    assert len(left(f"(float[batch,4] x) => (float[batch,n] y) {{ {text} }}", **weights)) == 2


def test_dropout_that_may_train_or_whose_mask_is_read_stays():
    fed = "(float[4] x, bool train) => (float[4] y) { a = Dropout(x, ratio, train)  y = Relu(a) }"
    assert "Dropout" in left(fed, ratio=f32(0.5))
    read = "(float[4] x) => (float[4] y, bool[4] m) { a, m = Dropout(x)  y = Relu(a) }"
    assert "Dropout" in left(read)


def test_a_reshape_with_one_open_dimension_is_told_by_the_others():
    text = "(float[batch,3,4] x) => (float[batch,3,4] y) { a = Reshape(x, t)  y = Relu(a) }"
    assert left(text, t=np.array([-1, 3, 4])) == ["Relu"]
    assert left(text.replace("batch,3,4] y", "p,q,r] y"), t=np.array([-1, 4, 3])) == ["Reshape", "Relu"]
