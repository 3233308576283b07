from __future__ import annotations

import xml.etree.ElementTree as ET

from edgeattn.report import junit
from edgeattn.report.schema import GateReport, ParityReport

from . import sample


def parsed(**changes):
    return ET.fromstring(junit(sample.report(**changes)))


def cases(root, suite):
    return {c.get("name"): c for c in root.find(f"testsuite[@name='{suite}']").findall("testcase")}


def test_every_gate_output_task_and_latency_is_a_case():
    root = parsed()
    suites = {s.get("name"): len(s) for s in root}
    assert suites == {
        "gates": 3,
        "parity after export": 2,
        "parity after rewrite": 2,
        "parity after compile": 2,
        "task": 1,
        "latency": 1,
    }
    assert root.get("tests") == str(sum(suites.values()))
    assert root.get("failures") == root.get("skipped") == "0"


def test_a_failure_carries_limit_and_observation():
    gate = GateReport(name="speedup", limit=4.0, observed=3.31, why="median 3.37", verdict="fail")
    root = parsed(gates=[gate])
    failure = cases(root, "gates")["speedup"].find("failure")
    assert failure.get("message") == "limit ≥ 4×, observed 3.31×: median 3.37"
    assert root.get("failures") == "1"


def test_inconclusive_is_skipped_with_its_reason_and_not_passed():
    gate = GateReport(name="speedup", limit=4.0, observed=3.3, why="this machine is too busy", verdict="inconclusive")
    root = parsed(gates=[gate], latency=sample.latency("inconclusive", why="this machine is too busy"))
    skipped = cases(root, "gates")["speedup"].find("skipped")
    assert skipped.get("message") == "inconclusive: limit ≥ 4×, observed 3.3×: this machine is too busy"
    assert root.get("skipped") == "2"


def test_only_the_last_stage_can_fail_parity():
    good, bad = sample.output(), sample.output("fail")
    stages = [sample.StageParity(stage=s, case_count=1, outputs={"y": o}) for s, o in (("a", bad), ("b", good))]
    root = parsed(parity=ParityReport.of(stages))
    assert cases(root, "parity after a")["y"].find("failure") is None
    assert "warning" in cases(root, "parity after a")["y"].find("system-out").text
    root = parsed(parity=ParityReport.of(stages[::-1]))
    assert cases(root, "parity after a")["y"].find("failure") is not None


def test_names_that_xml_cannot_carry_are_escaped():
    outputs = {'a<b>&"\x00\x1b[31m\ufffe': sample.output()}
    root = parsed(parity=ParityReport(outputs=outputs))
    (name,) = cases(root, "parity after the last stage")
    assert name == 'a<b>&"\\x00\\x1b[31m\\ufffe'


def test_a_report_without_sections_is_still_a_document():
    root = parsed(gates=(), parity=ParityReport(), task=None, latency=None)
    assert root.get("tests") == "0"
