"""Where the time goes, in every form of the report."""

from __future__ import annotations

import pytest

from edgeattn.report import html, markdown
from edgeattn.report.schema import Report
from edgeattn.report.timing import Cause, NodeTime, TimeReport

from . import sample

HOSTILE = "<script>alert(1)</script>|`x`"
PROFILE = TimeReport(
    total_ms=2.0,
    runs=20,
    threads=2,
    kinds={"products in int8": 1.2, "layout": 0.8},
    attention_share=0.25,
    macs_in={"int8": 0.96, "fp32": 0.04},
    nodes=(NodeTime(graph="main", node=HOSTILE, op="Conv", precision="int8", milliseconds=float("nan")),),
    causes=(Cause(cause="layout", why="order", do="rewrite", milliseconds=0.8, share=0.4, count=7, nodes=(HOSTILE,)),),
    warnings=(HOSTILE,),
)


def test_the_section_is_read_back_as_it_was_written() -> None:
    again = Report.parse(sample.report(profile=PROFILE).to_json()).profile
    assert again is not None
    assert again.causes == PROFILE.causes
    assert again.nodes[0].milliseconds is None  # NaN is no number of JSON


def test_it_is_told_in_words_and_names_from_a_file_stay_text() -> None:
    told = markdown(sample.report(profile=PROFILE))
    assert "## Where the time goes" in told
    assert "2 ms a run (median of 20, 2 threads): 60.0 % products in int8, 40.0 % layout; attention 25.0 %" in told
    assert "<script>" not in told
    assert "Where the time goes" not in markdown(sample.report(profile=None))


def test_the_page_shows_it_too() -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    page = html(sample.report(profile=PROFILE))
    assert "Where the time goes" in page
    assert "<td>rewrite</td>" in page
    assert "<script>" not in page
