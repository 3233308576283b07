"""``edgeattn quantize --scheme mixed``: budgets on the command line, and how each ending is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import edgeattn
from tests.quantize.test_mixed import CASES, fragile_net

pytestmark = [pytest.mark.onnxruntime, pytest.mark.slow]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EDGEATTN_CACHE", str(tmp_path / "cache"))
    onnx.save(fragile_net(), tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", image=np.concatenate([case.feeds["image"] for case in CASES]))

    def run(*arguments: object):
        asked = ("quantize", "m.onnx", "-o", "q.onnx", "--scheme", "mixed", "--calib", "data.npz", *arguments)
        return edgeattn(*asked, cwd=tmp_path)

    return run


def test_a_budget_in_decibels_gives_a_graph_and_the_ranking(ask, tmp_path: Path) -> None:
    done = ask("--sqnr", 25)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "q.onnx").exists()
    assert "mixture 2, 1 of 5 groups in float: " in done.stderr
    assert "mixed: 1 of 5 groups of layers stay in float, 76.1% of the MACs are left to INT8" in done.stderr
    assert "what INT8 costs" in done.stdout
    again = ask("--sqnr", 25, "--json", "--force", "-q")
    found = json.loads(again.stdout)["search"]
    assert (found["trials"], found["groups_in_float"]) == (0, 1)  # known from the first


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--sqnr", 200), 1, "no mixture with a layer in INT8 is that good: the best found has"),
        (("--max-drop", 0.01), 2, "max_drop is a share of a task's metric, and there is none; give a task"),
        (("--minutes", 90), 2, "--minutes 90: --timeout would end this after 3600 s"),
        (("--minutes", 1e-9), 5, "1e-09 minutes are up with 0 of 5 groups of layers ranked"),
        (("--sqnr", 25, "--scheme", "int8-static"), 2, "scheme 'int8-static' does not search"),
    ],
)
def test_what_cannot_be_is_told_in_a_line_and_leaves_nothing(ask, tmp_path: Path, arguments, code, said) -> None:
    done = ask(*arguments, "-q")
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "q.onnx").exists()
