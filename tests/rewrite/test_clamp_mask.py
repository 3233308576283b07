"""What clamp_mask promises beyond equality: zeros for rows without any valid position, and safety in FP16."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgeattn import rewrite as stage
from edgeattn.program import Case, Program, Reference
from edgeattn.rewrite._sample import f32, graph
from tests.rewrite.engine import open_plain

pytestmark = pytest.mark.onnxruntime

Q = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
KEEP = np.array([[True, False, True], [False, False, False]])


def program(low=-np.inf, guard=False, cases=((Q, KEEP),)):
    body = "pad = Not(keep)  m = Where(pad, low, q)  "
    body += "a = Softmax(m)  y = Where(pad, zero, a)" if guard else "y = Softmax(m)"
    weights = {"low": f32(low), "zero": f32(0.0)} if guard else {"low": f32(low)}
    model = graph(f"(float[batch,s] q, bool[batch,s] keep) => (float[batch,s] y) {{ {body} }}", **weights)
    drawn = tuple(Case(f"c{i}", {"q": q, "keep": keep}) for i, (q, keep) in enumerate(cases))
    return Program({"main": model}, reference=Reference("source graph", drawn))


def clamped(source, **options):
    result = stage.rewrite(source, open_plain, only=["clamp_mask"], **options)
    return result, result.history[-1].notes["rules"][0]


def test_an_empty_row_gives_zeros_where_it_gave_nan():
    source = program()
    assert np.isnan(open_plain(source)["main"].run(source.reference.cases[0].feeds)["y"][1]).all()
    result, record = clamped(source)
    y = open_plain(result)["main"].run(source.reference.cases[0].feeds)["y"]
    assert record["count"] == 1
    assert "undone" not in record
    np.testing.assert_array_equal(y[1], 0)
    assert y[0, 1] == 0
    assert y[0].sum() == pytest.approx(1, abs=1e-6)


def test_rows_with_a_valid_position_are_bit_identical():
    source = program(cases=((Q, KEEP | (np.arange(3) == 0)),))
    result, record = clamped(source)
    feeds = source.reference.cases[0].feeds
    np.testing.assert_array_equal(
        open_plain(result)["main"].run(feeds)["y"], open_plain(source)["main"].run(feeds)["y"]
    )
    assert record["max_abs"] == 0


def test_a_second_fill_is_not_doubled():
    result, _ = clamped(program(guard=True))
    assert [n.op_type for n in result.graphs["main"].graph.node].count("Where") == 2


def test_a_finite_mask_gets_no_second_fill_since_it_never_gave_nan():
    result, record = clamped(program(low=-1e9))
    assert "undone" not in record
    assert [n.op_type for n in result.graphs["main"].graph.node].count("Where") == 1


def test_every_constant_fits_fp16():
    result, _ = clamped(program(low=-3.4e38))
    arrays = [onnx.numpy_helper.to_array(t) for t in result.graphs["main"].graph.initializer]
    assert all(np.isfinite(a.astype(np.float16)).all() for a in arrays if a.dtype.kind == "f")


def test_scores_beyond_the_condition_undo_the_rule_with_the_reason():
    # all valid scores lie below -1e4, so the finite mask would win the softmax
    scores = np.array([[-3e4, 0.0, -3e4]], np.float32)
    result, record = clamped(program(cases=((scores, KEEP[:1]),)))
    assert record["undone"].startswith("case 'c0', output 'y': differs by")
    assert result.graphs["main"].graph.node[1].op_type == "Where"
    assert -np.inf in [onnx.numpy_helper.to_array(t) for t in result.graphs["main"].graph.initializer]


def test_later_rules_are_judged_by_the_mended_numbers():
    source = program()
    result = stage.rewrite(source, open_plain)
    again = stage.rewrite(replace(result, history=()), open_plain)
    assert all("undone" not in r for r in again.history[-1].notes["rules"])
