"""What every rewrite rule must do, said once: runs over the folder, so a new rule is tested the day it appears."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir
import pytest

from edgeattn import registry, rewrite
from edgeattn.rewrite import _apply, _check
from edgeattn.rewrite._rule import GraphRule
from edgeattn.standard import foreign_nodes
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime

RULES = registry.names("rewrite")
EXAMPLES = [(name, i) for name in RULES for i in range(len(registry.get("rewrite", name).examples()))]
NEAR_MISSES = [(name, i) for name in RULES for i in range(len(registry.get("rewrite", name).near_misses()))]


def test_every_rule_file_is_in_order_and_every_name_in_order_has_a_file():
    missing = [name for name in RULES if name not in rewrite.ORDER]
    assert not missing, f"rewrite/{missing[0]}.py is not in ORDER; add '{missing[0]}' to edgeattn/rewrite/__init__.py"
    stale = [name for name in rewrite.ORDER if name not in RULES]
    assert not stale, f"ORDER names '{stale[0]}', but rewrite/{stale[0]}.py does not exist"
    assert len(set(rewrite.ORDER)) == len(rewrite.ORDER)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_has_a_card_examples_and_near_misses(name):
    rule = registry.get("rewrite", name)
    card = registry.card("rewrite", name)
    assert rule.name == name
    assert card.startswith(f"{name}: ")
    assert all(part in card for part in ("What:", "Why:", "Before:", "After:", "Safe when:", "Source:")), card
    assert rule.examples()
    assert rule.near_misses()
    assert rule.exactness.kind in ("bit-exact", "allclose", "conditional")
    assert (rule.exactness.kind == "conditional") == bool(rule.exactness.condition)


@pytest.mark.parametrize(("name", "i"), EXAMPLES)
def test_fires_on_its_example_and_then_finds_nothing_more(name, i):
    rule = registry.get("rewrite", name)
    source = rule.examples()[i]
    digest = source.digest()
    once = _apply.apply(rule, source)
    assert once.count >= 1, f"missed: {[str(m) for m in once.misses]}"
    assert source.digest() == digest, "the input was edited"
    assert _apply.apply(rule, once.program).count == 0


@pytest.mark.parametrize(("name", "i"), EXAMPLES)
def test_result_is_valid_standard_and_looks_the_same_from_outside(name, i):
    rule = registry.get("rewrite", name)
    source = rule.examples()[i]
    result = _apply.apply(rule, source).program
    for model in result.graphs.values():
        onnx.checker.check_model(model, full_check=True)
        assert foreign_nodes(model) == []
    same = _check.not_reshaped if rule.reshapes else _check.not_as_before
    assert same(source, result) == ""


@pytest.mark.parametrize(("name", "i"), EXAMPLES)
def test_numbers_stay_within_the_declared_exactness_at_two_shapes(name, i):
    rule = registry.get("rewrite", name)
    if rule.restores:
        pytest.skip("the source graph's numbers are what this rule mends; its own test compares with PyTorch")
    source = draw_cases(rule.examples()[i])
    outcome = _apply.apply(rule, source)
    result = outcome.program if rule.reshapes else replace(outcome.program, reference=source.reference)
    names = [case.name for case in result.reference.cases]
    given = _check.outputs_of(outcome.before or source, open_plain)
    expected = [outcome.retold(outputs) if outcome.retold else outputs for outputs in given]
    assert all(expected)
    assert _check.judge(expected, _check.outputs_of(result, open_plain), names, rule.exactness).reason == ""


@pytest.mark.parametrize(("name", "i"), NEAR_MISSES)
def test_leaves_a_near_miss_alone_and_says_why(name, i):
    rule = registry.get("rewrite", name)
    source = rule.near_misses()[i]
    outcome = _apply.apply(rule, source)
    assert outcome.count == 0
    assert outcome.program is source
    assert outcome.misses, "a near miss must have a reason"
    assert all(m.reason and m.culprit for m in outcome.misses)


@pytest.mark.parametrize(("name", "i"), EXAMPLES)
def test_new_nodes_say_which_rule_made_them_and_from_what(name, i):
    rule = registry.get("rewrite", name)
    if not isinstance(rule, GraphRule) or rule.restores:
        pytest.skip("only graph rules that build nodes are asked")
    source = rule.examples()[i]
    old = {n.name for m in source.graphs.values() for n in m.graph.node}
    result = _apply.apply(rule, source).program
    for model in result.graphs.values():
        for node in onnx_ir.serde.deserialize_model(model).graph:
            if node.name not in old:
                assert node.metadata_props["edgeattn.rule"] == name
                assert set(node.metadata_props["edgeattn.from"].split(", ")) <= old


def test_the_number_check_sees_a_difference_of_one_in_ten_thousand():
    want = np.ones(4, np.float32)
    assert _check.compare(want, want * np.float32(1.0005))[0]
    assert not _check.compare(want, want * np.float32(1.00005))[0]
