from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from edgeattn.report import html
from edgeattn.report.evidence import AttentionFigure
from edgeattn.report.schema import GateReport, ParityReport

from . import sample

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects elements and insists that every one is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def full():
    return html(sample.report(), sample.raw(), [sample.spatial(), sample.alignment()])


def test_nothing_is_loaded_from_anywhere(full):
    assert "http://" not in full
    assert "https://" not in full
    targets = [
        value
        for _, attrs in Page(full).elements
        for key, value in attrs.items()
        if key in ("src", "href", "action", "srcset", "data")
    ]
    assert targets
    assert all(t.startswith(("#", "data:image/png;base64,")) for t in targets)
    assert not re.search(r"@import|url\((?!#)", full)
    assert not any(tag in ("script", "iframe", "object", "link") for tag, _ in Page(full).elements)


def test_every_id_is_unique_and_every_reference_finds_its_own():
    twins = [sample.alignment(), sample.alignment()]
    full = html(sample.report(), sample.raw(), twins)
    page = Page(full)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = {a["href"][1:] for _, a in page.elements if a.get("href", "").startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", full))
    assert wanted <= set(ids)


def test_the_first_screen_has_verdict_speed_drop_size_and_precision(full):
    top = Page(full).text.split("Gates")[0]
    for words in (
        "Pass",
        "Every gate that was asked holds",
        "3.37×",
        "0.14 pp",
        "29.1 MB",
        "int8 + bf16",
        "asked for int8",
    ):
        assert words in top


def test_a_dense_task_is_told_in_decibels_with_ssim_beside():
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html(sample.report(task=sample.dense_task()))))
    assert "PSNR lost, superresolution" in words
    assert "0.012 dB" in words
    assert "25.85 dB → 25.84 dB over 42 samples" in words
    assert "SSIM: PyTorch 0.7791, engine 0.7785." in words


def test_pictures_have_words_and_tables_have_headers(full):
    page = Page(full)
    figures = [a for tag, a in page.elements if tag == "figure"]
    assert len(figures) == 2 + 4 + 3
    assert all(len(a["aria-label"]) > 20 for a in figures)
    rows = [a for tag, a in page.elements if tag == "th"]
    assert all(a.get("scope") in ("row", "col") for a in rows)


def test_inconclusive_is_said_in_words_on_the_first_screen():
    report = sample.report(
        verdict="inconclusive", latency=sample.latency("inconclusive", why="this machine is too busy")
    )
    top = Page(html(report)).text.split("Gates")[0]
    assert "Inconclusive" in top
    assert "this is not a pass" in top
    assert "not settled the machine was too busy to tell; it showed 3.37×" in top


def test_texts_from_users_files_are_escaped_everywhere():
    evil = '<script>alert(1)</script>"onload="x\u202e\x1b[31m$\\frac{'
    stage = sample.StageParity(stage=evil, case_count=1, outputs={evil: sample.output(observed=evil, why=evil)})
    report = sample.report(
        model=evil,
        recipe=evil,
        parity=ParityReport.of([stage]),
        gates=[GateReport(name=evil, observed=evil, why=evil, verdict="fail")],
        latency=sample.latency().model_copy(update={"unit": evil, "why": evil}),
        operators=sample.Operators(domains=(evil,), histogram={evil: 1}),
        notes=(evil,),
    )
    weights = np.eye(2)
    figures = [
        AttentionFigure("alignment", evil, weights, weights, source=(evil, "$x$"), target=("a&b", "]]>-->")),
        AttentionFigure("spatial", evil, weights, weights, image=np.ones((2, 2))),
    ]
    text = html(report, sample.raw(30), figures)
    page = Page(text)
    assert not any(tag == "script" or "onload" in attrs for tag, attrs in page.elements)
    assert "\u202e" not in text
    assert "\x1b" not in text


def test_a_report_with_nothing_in_it_is_a_page():
    report = sample.report(
        stages=(), rewrites=(), operators=sample.Operators(), parity=ParityReport(), task=None, latency=None,
        size=None, environment=None, gates=(),
    )  # fmt: skip
    assert "nothing was judged" in Page(html(report)).text


@pytest.mark.parametrize("values", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.full((3, 3), -2.0)])
def test_degenerate_attention_can_still_be_drawn(values):
    figure = AttentionFigure("spatial", "t", values, values, image=np.zeros((5, 7)))
    long = AttentionFigure("alignment", "t", np.ones((1, 60)), np.ones((1, 60)), source=("x",) * 60, target=("字",))
    Page(html(sample.report(), None, [figure, long]))


@pytest.mark.parametrize("rounds", [0, 1, 2000])
def test_any_number_of_raw_samples_can_be_drawn(rounds):
    assert len(html(sample.report(), sample.raw(rounds))) < 400_000


def test_the_page_is_the_same_every_time():
    arguments = (sample.report(), sample.raw(50), [sample.spatial()])
    assert html(*arguments) == html(*arguments)


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named_with_its_extra(package):
    code = (
        f"import sys; sys.modules['{package}'] = None; sys.path.insert(0, 'tests');"
        "from edgeattn.report import html; from edgeattn.errors import MissingPackage\n"
        "from report import sample\n"
        "try: html(sample.report())\n"
        "except MissingPackage as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"the package '{package}' is not installed" in done.stdout
    assert "pip install 'edgeattn[report]'" in done.stdout
