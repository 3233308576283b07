"""A case on which the source is undetermined blames no rule; a wrong rule hides behind none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeattn.program import Case, Program, Reference
from edgeattn.rewrite import _check, _conditioning
from edgeattn.rewrite._sample import f32, graph
from tests.rewrite.engine import open_plain

pytestmark = pytest.mark.onnxruntime


def steep(factor):
    """y = tanh(factor * (x - 1)): determined at 0, undetermined at 1 for a large factor."""
    model = graph(
        """(float[batch,4] x) => (float[batch,4] y) {
            d = Sub(x, one)
            m = Mul(d, by)
            y = Tanh(m) }""",
        one=f32(1.0),
        by=f32(factor),
    )
    cases = (Case("at-1", {"x": np.ones((1, 4), np.float32)}), Case("at-0", {"x": np.zeros((1, 4), np.float32)}))
    return Program({"main": model}, reference=Reference("source graph", cases))


def verdict(program, errors):
    expected = _check.outputs_of(program, open_plain)
    actual = [{"y": e["y"] + np.float32(error)} for e, error in zip(expected, errors, strict=True)]
    cases = program.reference.cases
    names = [c.name for c in cases]
    return _check.judge(
        expected, actual, names, _check.ALLCLOSE, lambda i: _conditioning.spread(program, open_plain, cases[i])
    )


def test_a_source_that_is_steep_somewhere_moves_there_and_nowhere_else():
    program = steep(1e4)
    at_one, at_zero = (_conditioning.spread(program, open_plain, case)["y"] for case in program.reference.cases)
    assert at_one > 5e-4  # 1e4 units of 6e-8 to 1.2e-7
    assert at_zero == 0.0


def test_a_difference_that_the_source_has_with_itself_is_noted_and_no_reason():
    found = verdict(steep(1e4), [1e-3, 0.0])
    assert found.reason == ""
    assert found.max_abs == 0.0
    assert "not judged by case 'at-1'" in found.note


def test_where_every_case_is_undetermined_nothing_passes():
    program = steep(1e4)
    only = replace(program, reference=Reference("source graph", program.reference.cases[:1]))
    assert "undetermined on every case" in verdict(only, [1e-3]).reason


def test_a_wrong_rule_is_seen_on_the_cases_that_are_determined():
    assert "case 'at-0'" in verdict(steep(1e4), [1e-3, 1e-3]).reason


def test_a_source_that_is_determined_lets_nothing_pass():
    assert "case 'at-1'" in verdict(steep(1.0), [1e-3, 1e-3]).reason
