"""Rules for transformers meet PyTorch's exporters: every spelling of multi-head attention ends in one form."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace

import onnx_ir as ir
import pytest

from edgeattn import rewrite as stage
from edgeattn.recognise import recognise
from edgeattn.rewrite import _check
from edgeattn.rewrite._rule import ALLCLOSE
from edgeattn.rewrite._scores import scales_above, scores_of
from tests.rewrite.engine import open_plain
from tests.spellings import EXPORTERS, Unexportable, family, spelling

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]

# Those that every run sees; the rest takes two seconds of exporting each.
QUICK = ("mha-torch-padding", "mha-sdpa-bool", "mha-scale-split", "mha-rotary-halves", "mha-packed-unbind")
OPSETS = {"dynamo": 18, "torchscript": 17}
CASES = [
    pytest.param(s.name, exporter, marks=() if s.name in QUICK and exporter == "dynamo" else pytest.mark.long)
    for s in family("mha")
    for exporter in EXPORTERS
]
# Their scale multiplies the mask too, or queries and keys stand the other way round, or there is no scale to fold.
SCALED_AFTER = {"mha-scale-key-first", "mha-scale-computed"}


@functools.cache
def rewritten(name, exporter):
    """The exported program and its rewritten form."""
    try:
        program = spelling(name).export(exporter, OPSETS[exporter])
    except Unexportable as error:
        pytest.skip(f"{exporter} has no form of {name}: {error}")
    session = open_plain(program)["main"]
    cases = tuple(case for case in program.reference.cases if takes(session, case.feeds))
    program = replace(program, reference=replace(program.reference, cases=cases))
    return program, stage.rewrite(program, open_plain)


def takes(session, feeds):
    """TorchScript freezes the sizes it was traced with into some modules; their graphs run at those only."""
    try:
        session.run(feeds)
    except Exception:
        return False
    return True


def operators(program):
    return Counter(n.op_type for n in program.graphs["main"].graph.node)


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_no_rule_is_undone_and_pytorch_agrees(name, exporter):
    program, result = rewritten(name, exporter)
    assert [r for r in result.history[-1].notes["rules"] if "undone" in r] == []
    expected = [c.outputs for c in program.reference.cases]
    names = [c.name for c in program.reference.cases]
    assert _check.judge(expected, _check.outputs_of(result, open_plain), names, ALLCLOSE).reason == ""


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_nothing_but_masks_lies_between_the_product_and_its_softmax(name, exporter):
    if name in SCALED_AFTER:
        pytest.skip("the scale is not one constant number, or not seen as attention's")
    _, result = rewritten(name, exporter)
    for node in ir.serde.deserialize_model(result.graphs["main"]).graph:
        scores = scores_of(node) if node.op_type == "Softmax" else None
        if scores is not None and scores.scaled_mask is None:
            assert scores.scales == []
            assert scales_above(scores.product.inputs[1]) == []


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_a_second_pass_finds_nothing_more(name, exporter):
    _, result = rewritten(name, exporter)
    again = stage.rewrite(result, open_plain)
    found = {r["rule"]: r["count"] for r in again.history[-1].notes["rules"] if r["count"]}
    assert found == {}


@pytest.mark.parametrize(("name", "exporter"), CASES)
def test_what_was_recognised_before_is_recognised_after(name, exporter):
    program, result = rewritten(name, exporter)
    before, after = (Counter(a.kind for a in recognise(p.graphs["main"])) for p in (program, result))
    assert before <= after, "more may be seen in the one form, never less"


def test_masked_attention_of_pytorch_is_left_with_what_it_computes():
    program, result = rewritten("mha-sdpa-bool", "dynamo")
    assert operators(program)["IsNaN"] == 1
    kept = operators(result)
    assert kept["MatMul"] == 6
    assert kept["Transpose"] == 4
    assert kept["Softmax"] == 1
    assert not {"IsNaN", "Mul", "Div", "Slice"} & set(kept), kept


def test_packed_queries_keys_and_values_lose_the_copies_that_told_them_apart():
    program, result = rewritten("mha-packed-unbind", "dynamo")
    assert operators(program)["Slice"] == 3
    kept = operators(result)
    assert not {"Slice", "Split", "Squeeze", "Mul"} & set(kept), kept
    assert kept["MatMul"] == operators(program)["MatMul"] + 2
