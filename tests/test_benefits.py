"""Measuring what a rule is worth: what is kept, what is measured again, what an engine refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edgeattn import benefits, registry
from edgeattn.rewrite import _benefits
from edgeattn.rewrite._benefits import Benefit, Entry

pytestmark = pytest.mark.onnxruntime

FIGURES = {"speedup": 1.234, "ci95": (1.2, 1.3), "before_ms": 2.0, "after_ms": 1.6, "rounds": 60, "threads": 1}
KNOWN = Benefit("onnxruntime", "1", verdict="pass", why="", cpu="a machine", day="2026-01-31", **FIGURES)


@pytest.fixture
def engine(monkeypatch):
    """ONNX Runtime, and the measurements that were asked for."""
    asked = []

    def timed(name, backend, before, after, threads, seconds):
        asked.append(name)
        return replace(KNOWN, version=backend.probe().version)

    monkeypatch.setattr(benefits, "_timed", timed)
    return {"onnxruntime": registry.get("backends", "onnxruntime")}, asked


def measured(engine, stored=None, fresh=False) -> Entry:
    return benefits.measure(registry.get("rewrite", "remove_expand"), engine[0], stored, fresh=fresh)


def test_what_was_measured_for_the_same_graphs_and_engine_is_kept(engine):
    first = measured(engine)
    assert measured(engine, first) == first
    assert engine[1] == ["onnxruntime"]
    assert first.fired >= 1
    assert first.nodes[1] < first.nodes[0]


@pytest.mark.parametrize("change", [{"version": "0.1"}, {"verdict": "inconclusive"}, {"verdict": "refused"}])
def test_another_version_or_no_verdict_is_measured_again(engine, change):
    first = measured(engine)
    stored = replace(first, engines={"onnxruntime": replace(first.engines["onnxruntime"], **change)})
    assert measured(engine, stored) == first
    assert engine[1] == ["onnxruntime"] * 2


def test_other_graphs_are_measured_again_and_so_is_everything_where_asked(engine):
    first = measured(engine)
    measured(engine, replace(first, graphs="others"))
    measured(engine, first, fresh=True)
    assert engine[1] == ["onnxruntime"] * 3


def test_a_real_measurement_has_its_figures_and_its_machine():
    rule = registry.get("rewrite", "remove_expand")
    here = {"onnxruntime": registry.get("backends", "onnxruntime")}
    found = benefits.measure(rule, here, seconds=5.0).engines["onnxruntime"]
    assert found.verdict in ("pass", "inconclusive")
    told = found.before_ms is not None  # a machine too busy for a single interval says inconclusive, without figures
    assert told or found.verdict == "inconclusive"
    assert not told or min(found.before_ms, found.after_ms) > 0
    assert found.cpu
    assert found.version == here["onnxruntime"].probe().version


def test_what_is_written_is_what_is_read_in_the_order_of_the_rules(monkeypatch, tmp_path):
    monkeypatch.setattr(_benefits, "FILE", tmp_path / "benefits.json")
    entry = Entry("digest", 2, (9, 3), True, {"onnxruntime": KNOWN})
    benefits.save({"hoist_keys": entry, "remove_expand": entry, "gone": entry})
    assert list(json.loads((tmp_path / "benefits.json").read_text())) == ["remove_expand", "hoist_keys"]
    assert _benefits.known() == {"remove_expand": entry, "hoist_keys": entry}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, "1.23x (1.20 to 1.30)"),
        ({"speedup": 1.001, "ci95": (0.998, 1.004)}, "no difference"),
        ({"speedup": 1.004, "ci95": (1.003, 1.005)}, "no difference"),
        ({"verdict": "inconclusive"}, "not settled (1.20 to 1.30)"),
        ({"verdict": "refused", "speedup": None, "ci95": (None, None)}, "refused"),
    ],
)
def test_a_benefit_in_words(change, told):
    assert str(replace(KNOWN, **change)) == told
