"""Where Luong's matrix goes: onto the query in a step alone, into the encoder where there is one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgeattn import decode, registry
from edgeattn import rewrite as stage
from edgeattn.program import Program
from edgeattn.rewrite import _check
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime
SCORE, KEYS, VALUES = (
    registry.get("rewrite", name) for name in ("canonicalise_general_score", "hoist_keys", "hoist_values")
)


def products(model):
    return {tuple(n.input) for n in model.graph.node if n.op_type in ("MatMul", "Gemm")}


@pytest.mark.parametrize("number", range(4))
def test_in_one_graph_no_product_with_weights_reads_the_memory(number):
    result = SCORE.apply(SCORE.examples()[number]).program.graphs["main"]
    weights = {t.name for t in result.graph.initializer}
    assert any(set(p) & weights for p in products(result))
    assert not [p for p in products(result) if "memory" in p and set(p) & weights]


def test_with_an_encoder_the_query_is_not_projected_any_more():
    source = draw_cases(SCORE.examples()[4])
    result = stage.rewrite(source, open_plain, only=["canonicalise_general_score", "hoist_keys"])
    weights = {t.name for t in result.graphs["step"].graph.initializer}
    assert [p for p in products(result.graphs["step"]) if set(p) & weights] == [("r", "output")]
    assert "step.memory_keys" in result.wiring.feeds


def test_many_more_positions_than_steps_leave_the_matrix_on_the_query():
    source = SCORE.near_misses()[3]
    assert source.wiring.stop.max_steps == 4
    (found,) = SCORE.apply(source).misses
    assert found.reason == "99 rows once against one row in each of up to 4 steps: it stays where it is"
    longer = replace(source, wiring=replace(source.wiring, stop=replace(source.wiring.stop, max_steps=50)))
    assert SCORE.apply(longer).count == 1


BOTH = (
    "give it with the graph that makes 'memory', as a directory: encoder.onnx, step.onnx, and wiring.json "
    'with "feeds": {"step.memory": "encoder.memory"} (`edgeattn export` of a translator writes one)'
)


def test_a_step_alone_is_told_how_to_be_given_with_its_encoder():
    (found,) = stage.why_not("hoist_keys", Program({"main": KEYS.examples()[1].graphs["step"]}))
    assert found.culprit == "node_p"
    assert found.reason == (
        f"it is a constant's product with the input 'memory'; if that stays from step to step, {BOTH}"
    )


def test_so_is_a_step_whose_matrix_went_to_the_query():
    (found,) = stage.why_not("hoist_keys", Program({"main": KEYS.examples()[0].graphs["step"]}))
    assert found.reason == f"a single graph has no loop to hoist from; if it is a decoder's step, {BOTH}"


def test_hoisted_values_take_the_place_of_the_context_and_greedy_decoding_agrees():
    source = draw_cases(VALUES.examples()[0])
    result = stage.rewrite(source, open_plain, only=["hoist_values"])
    assert result.wiring.feeds == {
        "step.memory": "encoder.memory",  # the score still reads it
        "step.memory_values": "encoder.memory_values",
    }
    assert (result.wiring.state, result.wiring.stop) == (source.wiring.state, source.wiring.stop)
    for case in source.reference.cases:
        before = decode.run(open_plain(source), source.wiring, case.feeds)
        after = decode.run(open_plain(result), result.wiring, case.feeds)
        assert _check.compare(before["tokens"], after["tokens"])[0] == ""


def test_where_keys_and_values_are_hoisted_the_raw_memory_is_not_handed_over():
    program = draw_cases(VALUES.examples()[1])
    step = program.graphs["step"].graph
    score = next(n for n in step.node if n.op_type == "MatMul" and n.input[1] == "q")
    score.input[0] = "k"
    step.node.insert(0, onnx.helper.make_node("MatMul", ["memory", "w2"], ["k"], name="node_k"))
    step.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w2"))
    result = stage.rewrite(program, open_plain, only=["hoist_keys", "hoist_values"])
    assert sorted(result.wiring.feeds) == ["step.memory_keys", "step.memory_values"]
