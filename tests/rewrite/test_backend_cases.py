"""Rewriting ONNX's own test cases changes no answer, in ONNX Runtime and in OpenVINO: 2,033 graphs from elsewhere, most
of them hostile to rules. `make regressions` counts the same for every case, and for other rewriters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = [pytest.mark.onnxruntime, pytest.mark.openvino, pytest.mark.slow]


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Case -> what became of it; a process of its own forks the children in which engines may crash."""
    out = tmp_path_factory.mktemp("regressions") / "steps.json"
    command = [sys.executable, "-m", "tests.benchmarks.regressions", "--quick", "--jobs", "1", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert out.exists(), done.stderr
    Path(out.with_suffix(".txt")).write_text(done.stdout)
    assert done.returncode == 0, done.stdout
    return json.loads(out.read_text())


def test_no_case_that_an_engine_passes_is_broken_by_our_rules(steps):
    ran = [case for case in steps.values() if "edgeattn onnxruntime" in case]
    for engine in ("onnxruntime", "openvino"):
        passing = [case for case in ran if case[f"before {engine}"] == "pass"]
        assert len(passing) > 250, "the rules change hundreds of these graphs"
        assert all(case[f"edgeattn {engine}"] == "pass" for case in passing)


def test_what_is_refused_says_why(steps):
    refused = {name: case["edgeattn"]["failed"] for name, case in steps.items() if case["edgeattn"]["failed"]}
    assert len(steps) > 2000
    assert len(refused) < 0.2 * len(steps)
    assert {why.split(":")[0] for why in refused.values()} <= {"Unsupported", "BadInput", "EngineFailed"}, refused


def test_the_check_undoes_rules_in_half_precision_only(steps):
    undone = {name: case["edgeattn"]["undone"] for name, case in steps.items() if case["edgeattn"].get("undone")}
    assert [name for name in undone if "fp16" not in name] == []
