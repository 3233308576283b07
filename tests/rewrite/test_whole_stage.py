"""The stage as a whole: a second time changes nothing, and every node leads back to the source."""

from __future__ import annotations

import functools

import pytest

from edgeattn import registry
from edgeattn import rewrite as stage
from edgeattn.origin import origin_of
from edgeattn.preflight._check import OPSETS
from edgeattn.standard import all_nodes
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime

EXAMPLES = [(n, i) for n in stage.ORDER for i in range(len(registry.get("rewrite", n).examples()))]


@functools.cache
def exported(name):
    from edgeattn import models
    from edgeattn.export import export

    family, config = models.find(name)
    return export(family.source(family.build(**config.options).eval()))


def fired(program):
    return [(r["rule"], r["count"]) for r in program.history[-1].notes["rules"] if r["count"]]


@pytest.mark.parametrize(("name", "i"), EXAMPLES)
def test_a_second_time_changes_nothing_on_any_example(name, i):
    rule = registry.get("rewrite", name)
    if rule.restores:
        pytest.skip("needs PyTorch's outputs to be applied at all")
    once = stage.rewrite(draw_cases(rule.examples()[i]), open_plain)
    twice = stage.rewrite(once, open_plain)
    assert fired(twice) == []
    assert twice.wiring == once.wiring
    assert twice.digest() == once.digest()


@pytest.mark.torch
@pytest.mark.parametrize("name", ["cbam_digits", "se_digits", "luong_dates", "bahdanau_words"])
def test_a_second_time_changes_nothing_on_a_model(name):
    once = stage.rewrite(exported(name), open_plain)
    twice = stage.rewrite(once, open_plain)
    assert fired(twice) == []
    assert twice.digest() == once.digest()


@pytest.mark.torch
@pytest.mark.parametrize("name", ["cbam_digits", "luong_dates"])
def test_every_node_of_a_real_export_leads_back_to_nodes_and_modules_of_the_source(name):
    source = exported(name)
    result = stage.rewrite(source, open_plain)
    known = {g: {n.name or n.output[0] for n in all_nodes(m.graph)} for g, m in source.graphs.items()}
    scoped = {g: {n.name for n in m.graph.node if origin_of(n).module} for g, m in source.graphs.items()}
    made = 0
    for name_of_graph, model in result.graphs.items():
        for node in model.graph.node:
            origin = origin_of(node)
            made += bool(origin.rules)
            assert origin.nodes, node.name
            for told in origin.nodes:
                other, colon, inner = told.partition(":")
                where, original = (other, inner) if colon and other in known else (name_of_graph, told)
                assert original in known[where], f"{node.name} says it comes from {told}"
                assert not origin.rules or original not in scoped[where] or origin.module, node.name
    assert made >= 3, "the rules of these models build nodes; their provenance is what is tested"


def test_opsets_that_preflight_lets_in_are_those_that_rewrite_reads():
    assert list(OPSETS) == list(stage.OPSETS)
