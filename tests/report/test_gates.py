from __future__ import annotations

import pytest

from edgeattn.errors import UnknownName
from edgeattn.report.gates import evaluate
from edgeattn.report.schema import Execution, ParityReport, Precision, SizeReport, StageParity

from . import sample

INT8 = {"requested": "int8", "effective": "int8"}


def parity(verdict):
    return ParityReport(outputs={"y": sample.output(verdict, worst_case="real-b1")})


@pytest.mark.parametrize(
    ("gate", "limit", "changes", "verdict"),
    [
        ("precision", 0.5, {"precision": Precision(**INT8, share=0.5)}, "pass"),
        ("precision", 0.5, {"precision": Precision(**INT8, share=0.49)}, "fail"),
        ("precision", 0.5, {"precision": Precision(**INT8, int8_share=0.95)}, "pass"),
        ("precision", 0.5, {"precision": Precision(**INT8)}, "fail"),
        ("parity", True, {"parity": parity("pass")}, "pass"),
        ("parity", True, {"parity": parity("warn")}, "pass"),
        ("parity", True, {"parity": parity("fail")}, "fail"),
        ("parity", True, {"parity": parity("inconclusive")}, "inconclusive"),
        ("parity", True, {"parity": parity("n/a")}, "fail"),
        ("parity", True, {"parity": ParityReport()}, "fail"),
        ("task_drop", 0.005, {"task": sample.task(ci=(-0.001, 0.0049))}, "pass"),
        ("task_drop", 0.005, {"task": sample.task(ci=(0.006, 0.02))}, "fail"),
        ("task_drop", 0.005, {"task": sample.task(ci=(-0.001, 0.02))}, "inconclusive"),
        ("task_drop", 0.0, {"task": sample.task(ci=(-0.03, -0.01))}, "pass"),
        ("task_drop", 0.005, {"task": None}, "fail"),
        ("task_min", 0.98, {"task": sample.task(engine=0.98)}, "pass"),
        ("task_min", 0.98, {"task": sample.task(engine=0.979)}, "fail"),
        ("task_min", 0.98, {"task": None}, "fail"),
        ("agreement", 0.99, {"task": sample.task(agreement=0.995)}, "pass"),
        ("agreement", 0.99, {"task": sample.task(agreement=0.98)}, "fail"),
        ("agreement", 0.99, {"task": sample.task(agreement=None)}, "fail"),
        ("speedup", 2.0, {"latency": sample.latency(ci=(2.0, 2.5))}, "pass"),
        ("speedup", 2.0, {"latency": sample.latency(ci=(1.9, 2.5))}, "fail"),
        ("speedup", 2.0, {"latency": sample.latency("inconclusive", ci=(3.0, 3.5), why="busy")}, "inconclusive"),
        ("speedup", 2.0, {"latency": None}, "fail"),
        ("int8_share", 0.9, {"precision": Precision(**INT8, int8_share=0.95)}, "pass"),
        ("int8_share", 0.9, {"precision": Precision(**INT8, int8_share=0.5)}, "fail"),
        ("int8_share", 0.9, {"precision": Precision(**INT8)}, "fail"),
        ("size_ratio", 0.3, {"size": SizeReport(reference_bytes=100, engine_bytes=30)}, "pass"),
        ("size_ratio", 0.3, {"size": SizeReport(reference_bytes=100, engine_bytes=31)}, "fail"),
        ("size_ratio", 0.3, {"size": SizeReport(reference_bytes=0, engine_bytes=31)}, "fail"),
        ("size_ratio", 0.3, {"size": None}, "fail"),
    ],
)
def test_each_gate_says_what_its_meaning_says(gate, limit, changes, verdict):
    gates, overall = evaluate(sample.report(**changes), {gate: limit})
    assert [(g.name, g.limit, g.verdict) for g in gates] == [(gate, limit, verdict)]
    assert overall == verdict
    if verdict == "fail" and gates[0].observed is None:
        assert gates[0].why.endswith("nothing shows that this holds")


def test_gates_that_were_not_asked_cannot_fail_a_run():
    broken = sample.report(parity=parity("fail"), task=None, latency=None)
    assert evaluate(broken, {"parity": False, "task_drop": None, "speedup": None}) == ([], "pass")


def test_fail_outweighs_inconclusive_which_outweighs_pass():
    unsure = sample.latency("inconclusive", why="busy")
    assert evaluate(sample.report(latency=unsure), {"parity": True, "speedup": 1.0})[1] == "inconclusive"
    assert evaluate(sample.report(latency=unsure, task=None), {"speedup": 1.0, "task_drop": 0.1})[1] == "fail"


def test_a_failed_parity_names_the_output_case_and_limit():
    (gate,), _ = evaluate(sample.report(parity=parity("fail")), {"parity": True})
    assert gate.why == "y: SQNR 34.2 dB on case 'real-b1', limit SQNR ≥ 30 dB (fails < 20), cosine ≥ 0.997"


def test_an_unknown_gate_suggests_the_right_one():
    with pytest.raises(UnknownName, match=r"unknown gate 'speed_up'; did you mean 'speedup'\?"):
        evaluate(sample.report(), {"speed_up": 2.0})


def baseline(changes=None, old=None):
    gates, overall = evaluate(sample.report(**(changes or {})), {}, baseline=sample.report(**(old or {})))
    return {g.name: g.verdict for g in gates}, overall


def test_a_run_like_its_baseline_passes():
    assert baseline() == ({f"baseline_{k}": "pass" for k in ("parity", "task", "latency")}, "pass")


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        (
            {"parity": ParityReport(outputs={"logits": sample.output("fail"), "mask": sample.output()})},
            "baseline_parity",
        ),
        ({"parity": ParityReport(outputs={"logits": sample.output()})}, "baseline_parity"),
        ({"task": sample.task(engine=0.97)}, "baseline_task"),
        ({"task": None}, "baseline_task"),
        ({"latency": sample.latency(ci=(2.9, 3.0))}, "baseline_latency"),
        ({"latency": None}, "baseline_latency"),
    ],
)
def test_each_section_can_fall_behind_its_baseline(changes, gate):
    verdicts, overall = baseline(changes)
    assert [name for name, verdict in verdicts.items() if verdict == "fail"] == [gate]
    assert overall == "fail"


def test_decibels_may_move_by_a_rounding_and_no_further_however_narrow_the_baselines_interval():
    before = sample.dense_task().model_copy(update={"ci95": (-1e-7, 1e-7)})

    def verdict(engine):
        now = sample.report(task=before.model_copy(update={"engine": engine}))
        (gate,) = (g for g in evaluate(now, {}, baseline=sample.report(task=before))[0] if g.name == "baseline_task")
        return gate.verdict, gate.why

    assert verdict(before.engine - 0.02)[0] == "pass"
    assert verdict(before.engine - 0.03) == (
        "fail",
        "PSNR 25.84 dB before, 0.026 dB is within the baseline's own uncertainty",
    )


def test_the_interval_of_a_drop_is_told_in_its_unit():
    (gate,), _ = evaluate(sample.report(task=sample.dense_task()), {"task_drop": 0.05})
    assert gate.why == "95 % interval [0.004, 0.021] dB over 42 samples"


@pytest.mark.parametrize(
    "changes",
    [
        {"environment": sample.report().environment.model_copy(update={"cpu": "Another CPU"})},
        {"environment": None},
        {"latency": sample.latency("inconclusive", ci=(1.0, 1.1), why="busy")},
        {"latency": sample.latency().model_copy(update={"threads": 1})},
    ],
)
def test_latency_of_unlike_measurements_is_not_compared(changes):
    verdicts, overall = baseline(changes)
    assert verdicts["baseline_latency"] == "inconclusive"
    assert overall == "inconclusive"


def test_a_share_that_was_asked_for_takes_the_place_of_the_default_but_never_of_nothing():
    asked = {"precision": True, "int8_share": 0.2}
    for share, verdicts in ((0.3, ["pass", "pass"]), (0.1, ["pass", "fail"]), (0.0, ["fail", "fail"])):
        report = sample.report(precision=Precision(**INT8, share=share, int8_share=share))
        assert [gate.verdict for gate in evaluate(report, asked)[0]] == verdicts


def test_the_two_cpus_are_named():
    other = sample.report().environment.model_copy(update={"cpu": "Another CPU"})
    gates, _ = evaluate(sample.report(environment=other), {}, baseline=sample.report())
    assert gates[-1].why == "measured on 'Another CPU', the baseline on 'Example CPU'"


ELSEWHERE = Execution(ran=False, why="this machine has no NVIDIA GPU")
EVERY = {"precision": True, "parity": True, "task_drop": 0.01, "agreement": 0.9, "speedup": 1.0, "size_ratio": 0.9}


def built(graph_verdict="pass"):
    graph = StageParity(stage="quantize", case_count=9, outputs={"y": sample.output(graph_verdict, why="too far")})
    unknown = sample.output("n/a", max_abs=None, mean_abs=None)
    stages = (graph, StageParity(stage="engine", case_count=0, outputs={"y": unknown}))
    return sample.report(execution=ELSEWHERE, parity=ParityReport.of(stages), task=None, latency=None)


def test_an_engine_that_could_only_be_built_passes_no_gate_that_needs_it_to_run():
    gates, overall = evaluate(built(), EVERY)
    verdicts = {g.name: g.verdict for g in gates}
    assert verdicts == {
        "precision": "pass",
        "size_ratio": "pass",
        **dict.fromkeys(("parity", "task_drop", "agreement", "speedup"), "n/a"),
    }
    assert {g.why for g in gates if g.verdict == "n/a"} == {"not judged here: this machine has no NVIDIA GPU"}
    assert overall == "built"
    assert evaluate(built(), {})[1] == "built"


def test_an_engine_built_from_a_graph_that_is_wrong_fails_before_it_runs():
    gates, overall = evaluate(built("fail"), {"parity": True})
    assert (gates[0].verdict, gates[0].observed, overall) == ("fail", "the graph it was built from", "fail")
    assert gates[0].why.startswith("y: SQNR 34.2 dB")


def test_an_engine_that_did_not_run_has_not_kept_up_with_its_baseline_either():
    gates, overall = evaluate(built(), {}, baseline=sample.report())
    assert {(g.name, g.verdict) for g in gates} == {
        (f"baseline_{name}", "n/a") for name in ("parity", "task", "latency")
    }
    assert overall == "built"
