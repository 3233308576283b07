"""A recurrent operator that runs one step, spelled out, and the embedding that is folded into it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgeattn import registry
from edgeattn import rewrite as stage
from edgeattn.program import Program
from edgeattn.rewrite import _apply
from edgeattn.rewrite._sample import graph
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime
CELL, EMBEDDING = (registry.get("rewrite", name) for name in ("lower_recurrent_cell", "fold_embedding"))
V, M, D = 7, 4, 3


def decoder(op_type="LSTM", gates=4, states="h, c"):
    """A lookup joined with the fed-back state, laid out time first as exporters do, into one recurrent step."""
    given = "".join(f", float[1,batch,{D}] {s.strip()}" for s in states.split(","))
    return Program(
        {
            "main": graph(
                f"""(int64[batch] token, float[batch,{D}] feed{given}) => (float[1,batch,{D}] y_h) {{
                    e = Gather(table, token)
                    x = Concat <axis = 1> (e, feed)
                    u = Unsqueeze(x, one)
                    t = Transpose <perm = [1, 0, 2]> (u)
                    y, y_h = {op_type} <hidden_size = {D}> (t, w, r, b, , {states}) }}""",
                table=(V, M),
                w=(1, gates * D, M + D),
                r=(1, gates * D, D),
                b=(1, 2 * gates * D),
                one=np.array([1]),
            )
        }
    )


def operators(program):
    return Counter(n.op_type for n in program.graphs["main"].graph.node)


def sizes(program):
    return {tuple(t.dims) for t in program.graphs["main"].graph.initializer}


def test_an_lstm_step_is_one_gemm():
    result = _apply.apply(CELL, decoder()).program
    assert operators(result)["Gemm"] == 1
    assert "LSTM" not in operators(result)
    assert (4 * D, M + 2 * D) in sizes(result)


def test_a_gru_sees_its_input_and_its_state_apart():
    result = _apply.apply(CELL, decoder("GRU", 3, "h")).program
    assert operators(result)["Gemm"] == 3, "the input's, the state's gates, and the candidate of the reset state"


@pytest.mark.parametrize(("op_type", "gates", "states"), [("LSTM", 4, "h, c"), ("GRU", 3, "h")])
def test_the_embedding_is_folded_into_the_gates_once_they_are_seen(op_type, gates, states):
    source = draw_cases(decoder(op_type, gates, states))
    only = ["lower_recurrent_cell", "fold_embedding"]
    result = stage.rewrite(source, open_plain, only=only)  # the numbers are judged inside
    assert [(r["rule"], r["count"]) for r in result.history[-1].notes["rules"]] == [(name, 1) for name in only]
    assert (V, gates * D) in sizes(result)
    assert (V, M) not in sizes(result), "nobody reads the embedding any more"
    assert _apply.apply(EMBEDDING, source).count == 0, "inside the operator its weights are out of reach"


def test_layouts_that_cancel_are_not_repeated():
    result = _apply.apply(CELL, decoder()).program
    folded = _apply.apply(EMBEDDING, result).program
    assert not {"Transpose", "Squeeze"} & set(operators(folded) - Counter({"Squeeze": 2})), operators(folded)


def test_without_a_target_the_operator_stays_and_the_record_says_why():
    result = stage.rewrite(draw_cases(decoder()), open_plain)
    record = next(r for r in result.history[-1].notes["rules"] if r["rule"] == "lower_recurrent_cell")
    assert record["note"] == "fits 1 times, but left alone: whether it helps is measured on a target"
    assert operators(result)["LSTM"] == 1


def test_a_table_that_would_be_too_large_is_refused_with_its_size():
    text = "(int64[batch] token) => (float[batch,2048] y) { e = Gather(table, token) y = MatMul(e, w) }"
    model = graph(text, table=np.zeros((8000, 256), np.float32), w=np.zeros((256, 2048), np.float32))
    (found,) = _apply.apply(EMBEDDING, Program({"main": model})).misses
    assert found.reason == (
        "the folded tables would take 62.5 MiB, what they replace takes 9.8 MiB; "
        "allowed are 16.0 MiB and 4 times as much"
    )


def test_an_embedding_that_others_read_is_counted():
    text = """(int64[batch] token) => (float[batch,900] y, float[batch,64] e) {
        e = Gather(table, token)
        y = MatMul(e, w) }"""
    model = graph(text, table=np.zeros((600, 64), np.float32), w=np.zeros((64, 900), np.float32))
    (found,) = _apply.apply(EMBEDDING, Program({"main": model})).misses
    assert "with the embedding that others read" in found.reason


def test_a_concatenation_inside_a_concatenation_is_seen_through():
    text = """(int64[batch] token, float[batch,2] c, float[batch,3] s) => (float[batch,5] y) {
        e = Gather(table, token)
        read = Concat <axis = 1> (e, c)
        all = Concat <axis = -1> (s, read)
        y = Gemm(all, w, b) }"""
    source = draw_cases(Program({"main": graph(text, table=(V, M), w=(9, 5), b=(5,))}))
    result = stage.rewrite(source, open_plain, only=["fold_embedding"])
    assert result.history[-1].notes["rules"][0]["count"] == 1
    assert (5, 5) in sizes(result), "the rows of s and c together"
