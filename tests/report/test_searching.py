"""A search for a mixture in words, alike in every form; other schemes say nothing of it."""

from __future__ import annotations

import pytest

from edgeattn.report import page, searching, summary
from edgeattn.report.schema import StageReport
from tests.report.sample import report

FOUND = {
    "asked": "sqnr 30 dB",
    "target": "openvino 1.2",
    "held_out": 32,
    "task": "",
    "before": {"sqnr_db": 27.93, "output": "logits", "int8_macs": 0.97},
    "reached": {"sqnr_db": 30.12, "output": "logits", "int8_macs": 0.818},
    "groups": 15,
    "groups_in_float": 1,
    "trials": 25,
    "recalled": 0,
    "cut": False,
    "not_resumable": "",
    "ranking": [
        {"layers": "a.<0>|b", "graph": "main", "macs": 0.021, "alone_sqnr_db": 34.9, "cost_db": 1.1, "float": True},
        {"layers": "stem", "graph": "main", "macs": 0.06, "alone_sqnr_db": 40.6, "cost_db": None, "float": False},
    ],
}


def told_by(form: str, **changes) -> str:
    stage = StageReport(name="quantize", seconds=1.0, notes={"search": {**FOUND, **changes}})
    return (summary if form == "markdown" else page).render(report(stages=(stage,)))


def test_the_story_is_one_line_where_all_went_well() -> None:
    assert searching.told({"search": FOUND}) == [
        "mixed: 1 of 15 groups of layers stay in float, 81.8% of the MACs are left to INT8; 27.9 dB -> 30.1 dB on "
        "openvino 1.2 (sqnr 30 dB asked)"
    ]


def test_what_limits_the_result_is_told() -> None:
    lost = {**FOUND["reached"], "drop": 0.004, "metric": "accuracy", "ci95": [-0.001, 0.009], "samples": 500}
    notes = {**FOUND, "reached": lost, "task": "digits: some", "held_out": 0, "cut": True, "not_resumable": "/c: full"}
    first, *more = searching.told({"search": notes})
    assert "30.1 dB and 0.40% of the accuracy lost" in first
    assert [line.split(",")[0] for line in more] == [
        "mixed: its budget was measured on digits: some (95 % interval of the drop "
        "-0.0010 to 0.0090 over 500 samples); "
        "the task section scores others",
        "mixed: too few calibration samples to hold some out",
        "mixed: the search was cut by its time limit; run the same again to look for less work in float",
        "mixed: the search cannot be resumed",
    ]


@pytest.mark.parametrize(
    ("form", "name"), [("markdown", r"a.\<0\>\|b"), pytest.param("html", "<code>a.&lt;0&gt;|b</code>")]
)
def test_every_form_has_the_ranking(form: str, name: str) -> None:
    text = told_by(form)
    assert "What INT8 costs" in text
    assert name in text
    assert "34.9 dB" in text


def test_a_scheme_that_does_not_search_has_no_table() -> None:
    assert searching.told({"samples": 300}) == []
    assert searching.rows({"samples": 300}) == []
    assert "What INT8 costs" not in summary.render(report())
