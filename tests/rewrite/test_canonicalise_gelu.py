"""GELU below opset 20 in the order that ONNX Runtime has a kernel for."""

from __future__ import annotations

import onnx
import onnxruntime
import pytest

from edgeattn import registry
from edgeattn import rewrite as stage
from edgeattn.rewrite import _apply
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "canonicalise_gelu")


def executed(program, folder):
    """The operators that ONNX Runtime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        program.graphs["main"].SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node]


def test_onnxruntime_fuses_pytorchs_spelling_only_after_the_rule(tmp_path):
    source = RULE.examples()[0]
    assert "Erf" in executed(source, tmp_path), "this engine sees the exporter's order by itself: the rule may go"
    assert executed(_apply.apply(RULE, source).program, tmp_path) == ["Gelu"]


@pytest.mark.parametrize("number", [0, 1])
def test_the_orders_left_alone_are_those_that_it_fuses(number, tmp_path):
    assert executed(RULE.near_misses()[number], tmp_path) == ["Gelu"]


def test_the_stage_keeps_it_in_opset_18_and_takes_the_operator_in_opset_20():
    kinds = []
    for program in (RULE.examples()[0], RULE.near_misses()[2]):
        result = stage.rewrite(draw_cases(program), open_plain)
        assert [r for r in result.history[-1].notes["rules"] if "undone" in r] == []
        kinds.append([n.op_type for n in result.graphs["main"].graph.node])
    assert sorted(kinds[0]) == ["Add", "Div", "Erf", "Mul", "Mul"]
    assert kinds[1] == ["Gelu"]
