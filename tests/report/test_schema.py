from __future__ import annotations

import json
import os

import numpy as np
import pytest
from pydantic import ValidationError

from edgeattn.errors import BadInput
from edgeattn.report.schema import GateReport, OutputParity, Precision, Report, StageReport, Target, worst

from . import sample


def written(tmp_path, text):
    path = tmp_path / "report.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_report_comes_back_as_it_was_written(tmp_path):
    report = sample.report()
    path = written(tmp_path, report.to_json())
    assert Report.read(path) == report
    assert Report.read(path).to_json() == report.to_json()


def test_the_keys_that_scripts_rely_on_are_there():
    data = json.loads(sample.report().to_json())
    assert list(data)[:2] == ["schema_version", "verdict"]
    assert {"recipe", "model", "target", "precision", "stages", "rewrites", "operators", "parity"} <= set(data)
    assert {"task", "latency", "size", "environment", "gates"} <= set(data)
    assert set(data["target"]) == {"requested", "effective"}
    assert {"max_abs", "mean_abs", "sqnr_db", "cosine", "nonfinite", "limit", "verdict"} <= set(
        data["parity"]["outputs"]["logits"]
    )
    assert {"name", "metric", "samples", "reference", "engine", "drop", "ci95", "verdict"} <= set(data["task"])
    assert {"reference", "engine", "speedup", "aa_control", "verdict"} <= set(data["latency"])
    assert {"p50_ms", "p90_ms", "n"} <= set(data["latency"]["engine"])
    assert {"cpu", "isa", "cores", "threads", "versions", "load"} <= set(data["environment"])
    assert {"name", "limit", "observed", "why", "verdict"} <= set(data["gates"][0])


def test_figures_that_are_not_finite_become_null_and_never_nan():
    output = OutputParity(max_abs=float("nan"), mean_abs=np.float32("inf"), limit="x", verdict="fail")
    report = sample.report(
        parity=sample.ParityReport(outputs={"y": output}),
        stages=[StageReport(name="s", seconds=1.0, notes={"loss": float("inf"), "deep": [{"x": np.float64("nan")}]})],
        precision=Precision(requested="int8", effective="int8", int8_share=float("nan")),
    )
    text = report.to_json()
    assert "NaN" not in text
    assert "Infinity" not in text
    data = json.loads(text)
    assert data["parity"]["outputs"]["y"]["max_abs"] is None
    assert data["stages"][0]["notes"] == {"loss": None, "deep": [{"x": None}]}


def test_seconds_that_are_not_finite_are_refused_at_once():
    with pytest.raises(ValidationError, match="finite number"):
        StageReport(name="s", seconds=float("nan"))


def test_numpy_values_are_written_as_plain_json():
    notes = {"count": np.int64(3), "list": np.arange(2), "ok": np.bool_(True), "kinds": {"b", "a"}}
    stage = StageReport(name="s", seconds=0.0, notes=notes)
    assert stage.notes == {"count": 3, "list": [0, 1], "ok": True, "kinds": ["a", "b"]}


def test_values_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        sample.report().verdict = "fail"


def test_the_text_is_stable_whatever_order_the_counts_came_in():
    ops = {"Conv": 2, "Add": 2, "Relu": 9}
    again = {"Relu": 9, "Add": 2, "Conv": 2}
    texts = {sample.report(operators=sample.Operators(histogram=h)).to_json() for h in (ops, again)}
    assert len(texts) == 1
    assert list(json.loads(texts.pop())["operators"]["histogram"]) == ["Relu", "Add", "Conv"]


def test_keys_of_a_newer_edgeattn_are_ignored():
    data = json.loads(sample.report().to_json()) | {"new_section": {"x": 1}}
    assert Report.parse(json.dumps(data)) == sample.report()


def test_a_missing_optional_section_is_none():
    pair = {"requested": "a", "effective": "a"}
    minimal = {"schema_version": 1, "verdict": "pass", "target": pair, "precision": pair}
    report = Report.parse(json.dumps(minimal))
    assert (report.task, report.latency, report.gates) == (None, None, ())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not valid JSON"),
        ("<html>", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        ('{"verdict": NaN}', "NaN is not JSON"),
        ('{"verdict": "pass", "verdict": "fail"}', "key 'verdict' appears twice"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "holds a JSON list, not an object"),
        ("{}", "no schema_version, this edgeattn reads 1"),
        ('{"schema_version": 2}', "schema_version 2, this edgeattn reads 1"),
        ('{"schema_version": true}', "schema_version True, this edgeattn reads 1"),
        (
            '{"schema_version": 1, "verdict": "fine"}',
            "'verdict': Input should be 'pass', 'fail', 'inconclusive' or 'built'",
        ),
    ],
)
def test_a_broken_report_is_named_with_what_is_wrong(tmp_path, text, complaint):
    path = written(tmp_path, text)
    with pytest.raises(BadInput) as caught:
        Report.read(path)
    assert caught.value.exit_code == 3
    assert str(caught.value).startswith(f"{path}: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_paths_that_are_no_file_are_refused_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, complaint in (
        ("absent.json", "does not exist"),
        (".", "not a regular file"),
        ("pipe", "not a regular file"),
    ):
        with pytest.raises(BadInput, match=complaint):
            Report.read(tmp_path / path)
    with pytest.raises(BadInput, match=r"does not exist|cannot be read"):
        Report.read("a\0b")


def test_a_huge_file_is_not_read(tmp_path):
    path = tmp_path / "report.json"
    with path.open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(BadInput, match="larger than 64 MiB"):
        Report.read(path)


def test_the_worst_verdict_wins():
    assert worst(["pass", "warn", "inconclusive", "fail"]) == "fail"
    assert worst(["pass", "warn", "inconclusive"]) == "inconclusive"
    assert worst(["pass", "warn", "n/a"]) == "warn"
    assert worst([]) == "n/a"


def test_a_gate_keeps_the_kind_of_its_limit():
    gates = [GateReport(name="g", limit=limit, verdict="pass") for limit in (True, 0.5, "as before", None)]
    report = Report(
        verdict="pass",
        target=Target(requested="a", effective="a"),
        precision=Precision(requested="fp32", effective="fp32"),
        gates=gates,
    )
    assert [g.limit for g in Report.parse(report.to_json()).gates] == [True, 0.5, "as before", None]
