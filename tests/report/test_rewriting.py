"""The rewrite stage in words, alike in Markdown and HTML; a report of an older edgeattn lacks it and still reads."""

from __future__ import annotations

import pytest

from edgeattn.report import page, rewriting, summary
from edgeattn.report.schema import RewriteCount, StageReport
from tests.report.sample import report

NOTES = {
    "rules": [
        {"rule": "lower_fc_to_conv", "count": 2, "nodes_before": 40, "nodes_after": 34},
        {"rule": "remove_expand", "count": 0, "nodes_before": 34, "nodes_after": 34},
    ],
    "attention": [
        {"kind": "se", "module": "blocks.0.gate", "gate": "s0", "rules": ["lower_fc_to_conv"]},
        {"kind": "se", "module": "", "gate": "s1", "rules": ["lower_fc_to_conv"]},
        {"kind": "additive", "module": "Decoder", "gate": "a", "rules": []},
    ],
    "operators_before": {"histogram": {"Gemm": 4, "Relu": 2, "Conv": 1}},
    "operators": {"histogram": {"Conv": 5, "Relu": 2}},
    "parameters": {"main": [1200, 1200]},
    "macs": {"encoder": [5000, 6000], "step": [9000, 8000], "empty": [0, 0]},
}
RULES = (
    RewriteCount(rule="lower_fc_to_conv", count=2, nodes_before=40, nodes_after=34, where=("blocks.<0>.gate", "s1")),
)


def told_by(kind: str, **changes) -> str:
    made = report(rewrites=RULES, stages=(StageReport(name="rewrite", seconds=1.0, notes={**NOTES, **changes}),))
    return summary.render(made) if kind == "markdown" else page.render(made)


def test_attention_is_counted_by_kind_and_named_by_module_or_gate() -> None:
    assert rewriting.found(NOTES["attention"]) == "found 2 se (blocks.0.gate, s1); 1 additive (Decoder)"
    assert rewriting.found([]) == "no attention found"
    looped = [{"kind": "bahdanau", "module": "decoder.attention", "gate": f"softmax_{i}"} for i in range(10)]
    assert rewriting.found(looped) == "found 10 bahdanau (decoder.attention ×10)"
    assert rewriting.untouched(NOTES["attention"]) == "1 additive"
    assert rewriting.untouched([]) == ""


def test_only_a_few_places_are_named() -> None:
    assert rewriting.places(list("abcdef")) == "a, b, c, d and 2 more"
    assert rewriting.places(["a"]) == "a"


def test_changes_are_told_from_and_to_and_what_stayed_once() -> None:
    assert rewriting.changes(NOTES) == [
        ("nodes", "40 -> 34"),
        ("operators", "Conv 1 -> 5, Gemm 4 -> 0"),
        ("parameters", "1,200"),
        ("MACs", "encoder 5,000 -> 6,000, step 9,000 -> 8,000"),
    ]
    assert rewriting.operators(NOTES["operators"], NOTES["operators"]) == "as before"


@pytest.mark.parametrize("kind", ["markdown", "html"])
def test_every_form_tells_where_rules_fired_and_what_was_found(kind: str) -> None:
    told = told_by(kind)
    assert "40 → 34" in told
    assert "blocks.<0>" not in told  # a name from a user's file is no markup
    assert "In the graph: found 2 se (blocks.0.gate, s1); 1 additive (Decoder)." in told
    assert "1,200" in told


def test_a_report_without_these_notes_says_less() -> None:
    older = report(rewrites=RULES, stages=(StageReport(name="rewrite", seconds=1.0, notes={"rules": []}),))
    assert rewriting.notes_of(older) == {}
    assert "lower\\_fc\\_to\\_conv" in summary.render(older)
    assert "no attention found" not in summary.render(older)
    assert "lower_fc_to_conv" in page.render(older)
