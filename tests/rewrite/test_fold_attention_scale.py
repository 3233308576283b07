"""Where the scale of attention goes, and when it must not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeattn import registry
from edgeattn.program import Program
from edgeattn.rewrite import _apply
from edgeattn.rewrite._sample import f32, graph, i64
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "fold_attention_scale")
HEAD = "(float[batch,5,8] x, float[batch,2,4,5] k"


def attention(between="q = Transpose <perm = [0, 2, 1, 3]> (h)", outputs="", inputs="", factor=0.5, **weights):
    """Queries of two heads, scaled behind the product."""
    given = {"w": (8, 8), "b": (8,), "heads": i64(-1, 5, 2, 4), "s": f32(factor)} | weights
    return graph(
        f"""{HEAD}{inputs}) => (float[batch,2,5,5] y{outputs}) {{
            p = MatMul(x, w)  pb = Add(p, b)  h = Reshape(pb, heads)  {between}
            z = MatMul(q, k)  m = Mul(z, s)  y = Softmax <axis = 3> (m) }}""",
        **given,
    )


def arrays(model):
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def applied(model):
    outcome = _apply.apply(RULE, Program({"main": model}))
    return outcome, outcome.program.graphs["main"]


def test_weight_and_bias_are_multiplied_and_nothing_else_is():
    model = attention()
    outcome, result = applied(model)
    before, after = arrays(model), arrays(result)
    assert outcome.count == 1
    np.testing.assert_array_equal(after["w_scaled"], before["w"] / 2)
    np.testing.assert_array_equal(after["b_scaled"], before["b"] / 2)
    assert set(after) == {"w_scaled", "b_scaled", "heads"}


def test_a_power_of_two_changes_no_bit_of_the_result():
    source = draw_cases(Program({"main": attention(factor=0.125)}))
    result = _apply.apply(RULE, source).program
    for case in source.reference.cases:
        want, have = (open_plain(p)["main"].run(case.feeds)["y"] for p in (source, result))
        np.testing.assert_array_equal(have, want)


def test_a_bias_of_zeros_stays_the_constant_that_others_share():
    outcome, result = applied(attention(b=np.zeros(8, np.float32)))
    assert outcome.count == 1
    assert "b" in arrays(result)
    assert "b_scaled" not in arrays(result)


def test_only_the_columns_of_the_queries_are_multiplied_in_a_packed_weight():
    model = graph(
        f"""{HEAD}) => (float[batch,2,5,5] y, float[batch,5,8] rest) {{
            p = MatMul(x, w)  rest, mine = Split <axis = 2, num_outputs = 2> (p)  h = Reshape(mine, heads)
            q = Transpose <perm = [0, 2, 1, 3]> (h)  z = MatMul(q, k)  m = Mul(z, s)  y = Softmax <axis = 3> (m) }}""",
        w=(8, 16),
        heads=i64(-1, 5, 2, 4),
        s=f32(0.5),
    )
    _, result = applied(model)
    w = arrays(model)["w"]
    np.testing.assert_array_equal(arrays(result)["w_scaled"], np.concatenate([w[:, :8], w[:, 8:] / 2], 1))


@pytest.mark.parametrize(
    ("between", "why"),
    [
        ("t = Transpose <perm = [0, 2, 1, 3]> (h)  q = LayerNormalization <axis = -1> (t, g)", "normalised queries"),
        ("t = Transpose <perm = [0, 2, 1, 3]> (h)  q = Add(t, g)", "a bias behind the projection's own"),
        ("t = Transpose <perm = [0, 2, 1, 3]> (h)  q = Mul(t, t)", "the square"),
    ],
)
def test_what_is_not_linear_keeps_the_scale_behind_it(between, why):
    outcome, result = applied(attention(between, g=(4,)))
    assert outcome.count == 1, why
    assert "w" in arrays(result), why
    last = [n.op_type for n in result.graph.node][-3:]
    assert last == ["Mul", "MatMul", "Softmax"], why


def test_queries_that_leave_the_graph_keep_their_numbers():
    outcome, result = applied(attention(outputs=", float[batch,5,8] pb"))
    assert outcome.count == 1
    assert "w" in arrays(result)


def test_a_weight_that_is_an_input_too_is_no_constant():
    model = attention(inputs=", float[8,8] w")
    outcome, result = applied(model)
    assert [v.name for v in result.graph.input] == ["x", "k", "w"]
    assert "w_scaled" not in arrays(result)
    assert outcome.count == 1, "the scale moves in front of the product all the same"
