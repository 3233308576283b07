"""The reference models after rewriting: what must be left of their attention, and that the decode loop still agrees."""

from __future__ import annotations

import functools
from collections import Counter

import pytest

from edgeattn import models
from edgeattn import rewrite as stage
from edgeattn.rewrite import _check
from edgeattn.rewrite._rule import ALLCLOSE
from tests.rewrite.engine import open_plain

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]


@functools.cache
def rewritten(name):
    from edgeattn.export import export

    family, config = models.find(name)
    source = export(family.source(family.build(**config.options).eval()))
    return source, stage.rewrite(source, open_plain)


def operators(program, name="main"):
    return Counter(n.op_type for n in program.graphs[name].graph.node)


def products(program, name):
    return sum(operators(program, name)[op] for op in ("MatMul", "Gemm"))


def undone(program):
    return [r for r in program.history[-1].notes["rules"] if "undone" in r]


def judged(source, result):
    names = [c.name for c in source.reference.cases]
    return _check.judge(
        _check.outputs_of(source, open_plain), _check.outputs_of(result, open_plain), names, ALLCLOSE
    ).reason


@pytest.mark.parametrize(("name", "blocks"), [("cbam_digits", 3), ("se_digits", 3)])
def test_a_gate_is_two_convolutions_and_no_shape_operator(name, blocks):
    source, result = rewritten(name)
    before, after = operators(source), operators(result)
    assert after["Conv"] == before["Conv"] + 2 * blocks
    assert after["Reshape"] == 1, "the classifier's"
    assert after["Gemm"] == 1, "the classifier's"
    assert not {"Expand", "Unsqueeze", "Shape", "Flatten", "BatchNormalization"} & set(after), after
    assert undone(result) == []
    assert judged(source, result) == ""


@pytest.mark.slow
def test_the_translators_keys_are_made_by_the_encoder():
    source, result = rewritten("luong_dates")
    assert "step.memory_keys" in result.wiring.feeds
    assert products(result, "step") == products(source, "step") - 1
    assert undone(result) == []
    assert judged(source, result) == ""
