"""What `edgeattn explain RULE` says a rule is worth was measured on the graphs that the rule has now."""

import pytest

from edgeattn import registry
from edgeattn.rewrite import ORDER, _benefits

pytestmark = pytest.mark.onnxruntime

ENGINES = {"onnxruntime", "openvino"}


@pytest.mark.parametrize("name", ORDER)
def test_the_stored_benefit_was_measured_on_the_rules_present_workload(name):
    entry = _benefits.known().get(name)
    again = f"rewrite/benefits.json is not up to date for {name}: make benefits"
    assert entry is not None, again
    before, after, fired = _benefits.workload(registry.get("rewrite", name))
    assert fired, f"{name} does not fire on its own workload"
    assert (entry.graphs, entry.fired) == (_benefits.digest(before, after), fired), again
    assert set(entry.engines) == ENGINES, again


def test_no_benefit_is_kept_of_a_rule_that_is_gone():
    assert set(_benefits.known()) <= set(ORDER)


def test_a_digest_knows_graphs_apart_by_what_they_compute_and_not_by_names_or_weights():
    rule = registry.get("rewrite", "lower_fc_to_conv")
    before, after, _ = _benefits.workload(rule)
    (model,) = before.graphs.values()
    digest = _benefits.digest(before, after)
    node = next(n for n in model.graph.node if n.name)
    node.name = "another"
    weight = next(t for t in model.graph.initializer if t.data_type == 1 and t.raw_data)
    weight.raw_data = bytes(len(weight.raw_data))
    assert _benefits.digest(before, after) == digest
    assert _benefits.digest(after, before) != digest
    node.op_type = "Neg"
    assert _benefits.digest(before, after) != digest
