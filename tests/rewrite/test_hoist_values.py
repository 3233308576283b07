"""Values projected once: the context's products leave the step, and those of one context leave it together."""

from __future__ import annotations

import pytest

from edgeattn import registry
from edgeattn.graphs import GraphIndex

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "hoist_values")


def test_products_of_one_context_share_the_memory_and_the_weighted_sum() -> None:
    """Both are 5 wide; that their numbers stay is tested with every rule's examples."""
    two = RULE.examples()[2]
    outcome = RULE.apply(two)
    assert outcome.count == 2
    step = GraphIndex(outcome.program.graphs["step"])
    assert [f for f in outcome.program.wiring.feeds if "values" in f] == ["step.memory_values"]
    (weighted,) = step.consumers["memory_values"]
    (squeeze,) = step.consumers[weighted.output[0]]
    (split,) = step.consumers[squeeze.output[0]]
    assert [squeeze.op_type, split.op_type] == ["Squeeze", "Split"]  # the context's axis goes once, not twice
    assert step.constant(split.input[1]).tolist() == [5, 5]


def test_a_single_product_is_not_split() -> None:
    outcome = RULE.apply(RULE.examples()[0])
    assert all(node.op_type != "Split" for node in outcome.program.graphs["step"].graph.node)
