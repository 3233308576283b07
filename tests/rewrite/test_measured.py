"""Rules that stay only where they are faster: what the walk does with a measurement, and how one is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeattn import choose, registry, rewrite
from edgeattn.backends import Options
from edgeattn.rewrite import Choice
from edgeattn.rewrite._walk import Walk
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime

FASTER = Choice(True, "onnxruntime:cpu", 1.4, (1.3, 1.5), "faster")
SLOWER = Choice(False, "onnxruntime:cpu", 0.9, (0.8, 0.95), "slower")


def walked(monkeypatch, chooser, asked=()):
    """One step of an existing rule, declared measured."""
    rule = registry.get("rewrite", "remove_expand")
    monkeypatch.setattr(type(rule), "measured", True)
    source = draw_cases(rule.examples()[0])
    walk = Walk(source, open_plain, lambda line: None, chooser, asked)
    walk.step(rule)
    return source, walk.program, walk.records[0]


def test_a_measured_rule_stays_where_it_is_faster(monkeypatch):
    source, result, record = walked(monkeypatch, lambda before, after: FASTER)
    assert result.digest() != source.digest()
    assert record["count"] == 1
    assert record["measured"]["speedup"] == 1.4
    assert record["note"] == "onnxruntime:cpu 1.400x (1.300 to 1.500): faster"


def test_a_measured_rule_goes_where_it_is_not(monkeypatch):
    source, result, record = walked(monkeypatch, lambda before, after: SLOWER)
    assert result.digest() == source.digest()
    assert record["count"] == 0
    assert record["measured"]["keep"] is False


def test_without_a_target_a_measured_rule_is_left_alone_and_says_so(monkeypatch):
    source, result, record = walked(monkeypatch, None)
    assert result.digest() == source.digest()
    assert "left alone" in record["note"]


def test_a_measured_rule_that_is_named_is_applied(monkeypatch):
    source, result, _ = walked(monkeypatch, None, asked=("remove_expand",))
    assert result.digest() != source.digest()


def test_a_program_against_itself_is_never_worth_changing():
    source = draw_cases(registry.get("rewrite", "merge_shared_mlp").examples()[0])
    said = choose.by_latency("onnxruntime", Options("cpu", threads=1), pairs=20, seconds=3.0)(source, source)
    assert not said.keep
    assert said.target == "onnxruntime:cpu"
    assert said.why


def test_what_the_engine_refuses_is_not_timed():
    source = rewrite.rewrite(draw_cases(registry.get("rewrite", "remove_expand").examples()[0]), open_plain)
    said = choose.by_latency("onnxruntime", Options("cpu", "fp16"))(source, source)
    assert (said.keep, said.speedup) == (False, None)
    assert "fp32" in said.why


def test_on_a_busy_machine_only_a_gain_beyond_twice_its_noise_is_believed():
    assert choose.beyond_noise(2.3, (0.93, 1.07))
    assert choose.beyond_noise(1.16, (0.93, 1.07))
    assert not choose.beyond_noise(1.15, (0.93, 1.07)), "1 / 0.93 squared is 1.156"
    assert not choose.beyond_noise(5.0, (None, None))


def test_a_program_is_timed_in_the_form_it_is_built_in_and_formed_once():
    source = draw_cases(registry.get("rewrite", "merge_shared_mlp").examples()[0])
    other, formed = replace(source), []

    def form(program):
        formed.append(program)
        return program

    choose_ = choose.by_latency("onnxruntime", Options("cpu", threads=1), pairs=20, seconds=3.0, form=form)
    choose_(source, other)
    choose_(source, other)
    assert [p is source for p in formed] == [False, True]
