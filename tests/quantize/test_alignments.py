"""What of an alignment is quantized: its projections, as any layer; not the vector that scores."""

from __future__ import annotations

import pytest

from edgeattn.quantize import Settings
from edgeattn.quantize._plan import plan
from edgeattn.rewrite._sample import graph

pytestmark = pytest.mark.onnxruntime


def test_a_query_projection_inside_the_score_is_a_layer_like_any_other():
    model = graph(
        """(float[batch,64] s, float[batch,n,64] memory) => (float[batch,1,64] context) {
            q = MatMul(s, w)
            one = Constant <value_ints = [1]> ()
            wide = Unsqueeze(q, one)
            keys = MatMul(memory, u)
            sum = Add(wide, keys)
            t = Tanh(sum)
            e = MatMul(t, v)
            scores = Transpose <perm = [0, 2, 1]> (e)
            weights = Softmax <axis = -1> (scores)
            context = MatMul(weights, memory) }""",
        w=(64, 64),
        u=(64, 64),
        v=(64, 1),
    )
    made = plan(model, Settings())
    assert [a.kind for a in made.attention] == ["bahdanau"]
    assert set(made.kept) == {"node_e", "node_context"}
    assert made.kept["node_e"].startswith("narrow: 64 -> 1 channels")


def test_the_input_and_state_of_a_cell_are_quantized_together_and_once():
    model = graph(
        """(float[batch,64] x, float[batch,64] h) => (float[batch,32] y) {
            j = Concat <axis = 1> (x, h)  y = Gemm(j, w) }""",
        w=(128, 32),
    )
    assert set(plan(model, Settings()).activations) == {"j"}
