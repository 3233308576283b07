"""Wiring after hoisting: what moves, what stays, what goes."""

from __future__ import annotations

import pytest

from edgeattn import registry
from edgeattn.rewrite import _check
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime
RULE = registry.get("rewrite", "hoist_keys")


def hoisted(number):
    return RULE.apply(RULE.examples()[number]).program


def names(values):
    return [v.name for v in values]


def test_the_raw_memory_stays_while_the_context_reads_it():
    result = hoisted(0)
    assert result.wiring.feeds == {"step.memory": "encoder.memory", "step.memory_keys": "encoder.memory_keys"}
    assert names(result.graphs["step"].graph.input) == ["token", "h", "memory", "memory_keys"]


def test_the_raw_memory_goes_when_nothing_reads_it():
    result = hoisted(1)
    assert result.wiring.feeds == {"step.memory_keys": "encoder.memory_keys"}
    assert names(result.graphs["step"].graph.input) == ["token", "h", "memory_keys"]
    assert [n.op_type for n in result.graphs["encoder"].graph.node] == ["Tanh", "Transpose", "MatMul", "Add"]


def test_weights_move_out_of_the_step():
    result = hoisted(0)
    assert "weight" in names(result.graphs["encoder"].graph.initializer)
    assert "weight" not in names(result.graphs["step"].graph.initializer)


def test_moved_nodes_remember_their_origin():
    node = hoisted(0).graphs["encoder"].graph.node[-1]
    props = {p.key: p.value for p in node.metadata_props}
    assert props["edgeattn.rule"] == "hoist_keys"
    assert props["edgeattn.from"] == "step:node_k"


def test_state_and_stop_are_untouched():
    before, after = RULE.examples()[0].wiring, hoisted(0).wiring
    assert (before.state, before.stop) == (after.state, after.stop)


def test_a_state_that_the_encoder_hands_over_is_not_invariant():
    product_of_state = RULE.near_misses()[0]
    (reason,) = [m.reason for m in RULE.apply(product_of_state).misses if m.anchor == "node_hw"]
    assert reason == "it reads 'h', which changes from step to step or is fed by the caller"


def test_greedy_decoding_gives_the_same_tokens():
    from edgeattn import decode

    source = draw_cases(RULE.examples()[0])
    for case in source.reference.cases:
        before = decode.run(open_plain(source), source.wiring, case.feeds)
        result = RULE.apply(source).program
        after = decode.run(open_plain(result), result.wiring, case.feeds)
        assert _check.compare(before["tokens"], after["tokens"])[0] == ""
