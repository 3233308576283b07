"""What holds for every graph: drawn at random in any spelling, rewriting keeps its numbers, its face and its attention.

A run in CI takes the same few examples each time; ``EDGEATTN_EXAMPLES=2000 pytest tests/rewrite/test_properties.py``
draws new ones, so many for each property.
"""

from __future__ import annotations

import os
from dataclasses import replace

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeattn import rewrite as stage
from edgeattn.recognise import recognise
from edgeattn.rewrite import _check
from edgeattn.rewrite._rule import ALLCLOSE
from tests.rewrite.disguise import DISGUISES, branched
from tests.rewrite.drawn import aligned, gated, program_of
from tests.rewrite.engine import open_plain

pytestmark = pytest.mark.onnxruntime

ASKED = os.environ.get("EDGEATTN_EXAMPLES")


def examples(few: int):
    return settings(
        max_examples=int(ASKED or few),
        derandomize=not ASKED,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


graphs = st.one_of(gated(), gated(), aligned())


def disguised(drawn, rng, disguises):
    model = drawn.model
    for disguise in disguises:
        model = disguise(model, rng)
    return program_of(model)


def rewritten(program):
    return stage.rewrite(program, open_plain)


def counts(program):
    return {r["rule"]: r["count"] for r in program.history[-1].notes["rules"] if r["count"]}


def undone(program):
    return [r for r in program.history[-1].notes["rules"] if "undone" in r]


BY_WEIGHTS = ("se", "cam", "cbam")
"""Kinds whose width their weights tell; of the others it is known only where a shape can be inferred."""


def seen(program):
    """What the recogniser says, without the names of values."""
    told = recognise(program.graphs["main"])
    widths = [a.channels or 0 if a.kind in BY_WEIGHTS else 0 for a in told]
    return sorted((a.kind, a.pools, w, a.reduction or 0, a.kernel, a.order) for a, w in zip(told, widths, strict=True))


def same_numbers(source, result):
    names = [c.name for c in source.reference.cases]
    have = _check.outputs_of(replace(result, reference=source.reference), open_plain)
    return _check.judge(_check.outputs_of(source, open_plain), have, names, ALLCLOSE).reason


@examples(100)
@given(graphs, st.randoms(use_true_random=False), st.lists(st.sampled_from(DISGUISES), unique=True))
def test_rewriting_keeps_numbers_and_face_and_is_done_after_one_time(drawn, rng, disguises):
    source = disguised(drawn, rng, disguises)
    result = rewritten(source)
    assert undone(result) == []
    assert same_numbers(source, result) == ""
    assert _check.not_as_before(source, result) == ""
    onnx.checker.check_model(result.graphs["main"], full_check=True)
    again = rewritten(result)
    assert counts(again) == {}
    assert again.digest() == result.digest()


@examples(150)
@given(graphs, st.randoms(use_true_random=False), st.lists(st.sampled_from(DISGUISES), unique=True, min_size=1))
def test_attention_is_recognised_under_any_name_order_and_identity(drawn, rng, disguises):
    assert seen(disguised(drawn, rng, disguises)) == seen(program_of(drawn.model))


@examples(60)
@given(graphs, st.randoms(use_true_random=False), st.lists(st.sampled_from(DISGUISES), unique=True))
def test_attention_is_recognised_before_and_after_rewriting(drawn, rng, disguises):
    source = disguised(drawn, rng, disguises)
    assert seen(rewritten(source)) == seen(source)


@examples(30)
@given(graphs, st.randoms(use_true_random=False))
def test_a_graph_inside_a_branch_keeps_its_numbers(drawn, rng):
    source = disguised(drawn, rng, [branched])
    result = rewritten(source)
    assert undone(result) == []
    assert same_numbers(source, result) == ""
