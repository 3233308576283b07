"""The commands that look: at a file, at what there is, at why a rule did not fire."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from onnx import helper

from tests.conftest import edgeattn
from tests.graphs import conv_net, model
from tests.quantize.test_quantize import residual_net


def said(*arguments: object) -> object:
    done = edgeattn(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def attended(tmp_path: Path) -> Path:
    onnx.save(residual_net(attention=True), tmp_path / "se.onnx")
    return tmp_path / "se.onnx"


def test_recognise_names_the_structure_and_its_nodes(attended: Path) -> None:
    (found,) = said("recognise", attended)
    assert found["kind"] == "se"
    assert found["nodes"] == ["e", "gate", "h", "hr", "pool"]


def test_recognise_says_so_when_there_is_none(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    assert "no attention found" in edgeattn("recognise", tmp_path / "m.onnx").stdout


def test_why_not_names_the_node_that_broke_the_pattern(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Expand", ["x", "size"], ["y"], name="grow"),
    ]
    import numpy as np

    onnx.save(model(nodes, {"x": ["batch", 1]}, {"y": ["batch", 5]}, {"size": np.array([1, 5])}), tmp_path / "m.onnx")
    (miss,) = said("why-not", "remove_expand", tmp_path / "m.onnx")
    assert miss["culprit"] == "grow"
    assert "leaves the graph" in miss["reason"]


def test_why_not_tells_an_unknown_rule_the_nearest(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    done = edgeattn("why-not", "remove_expnd", tmp_path / "m.onnx")
    assert done.returncode == 2
    assert "did you mean 'remove_expand'" in done.stderr


def test_inspect_tells_operators_parameters_and_attention(attended: Path) -> None:
    facts = said("inspect", attended)["graphs"]["main"]
    assert facts["domains"] == ["ai.onnx"]
    assert facts["operators"]["Conv"] == 6
    assert facts["attention"][0]["kind"] == "se"


@pytest.mark.parametrize("kind", ["blocks", "rules", "schemes", "targets", "tasks", "recipes"])
def test_lists_are_tables_and_json(kind: str) -> None:
    rows = said("list", kind)
    assert rows
    first = next(iter(rows[0].values()))
    assert first in edgeattn("list", kind).stdout


@pytest.mark.parametrize("name", ["cbam", "merge_shared_mlp", "int8-static", "openvino", "digits"])
def test_explain_prints_the_card(name: str) -> None:
    assert len(said("explain", name)["card"]) > 100


def test_models_are_listed_with_parameters_macs_task_and_what_they_were_trained_to() -> None:
    rows = {row["model"]: row for row in said("list", "models")}
    cbam = rows["cbam_digits"]
    assert (cbam["parameters"], cbam["macs"], cbam["task"]) == (314_002, {"main": 12_177_312}, "digits")
    assert (cbam["metric"], cbam["score"]) == ("accuracy", 0.9956)
    assert rows["luong_dates"]["macs"].keys() == {"encoder", "step"}
    assert rows["resnet50"]["score"] is None
    shown = edgeattn("list", "models", "-q").stdout
    assert "digits: accuracy 99.56 %" in shown
    assert "cbam_spatial_first_resnet18" in shown  # the longest name is not cut
    assert "untrained" in shown


def test_explain_leads_from_a_configuration_to_the_card_of_its_family() -> None:
    found = said("explain", "cbam_digits")
    assert found["family"] == "resnet"
    assert "He, Zhang, Ren, Sun" in found["card"]
    wrong = edgeattn("explain", "cbam_digit")
    assert wrong.returncode == 2
    assert "did you mean 'cbam_digits'" in wrong.stderr


def test_several_runs_are_shown_in_one_table(digits_run: Path, dates_run: Path, tmp_path: Path) -> None:
    rows = said("table", digits_run, dates_run)
    assert [(r["model"], r["precision"]["requested"]) for r in rows] == [
        ("cbam_digits", "int8"),
        ("luong_dates", "fp32"),
    ]
    out = tmp_path / "zoo.md"
    done = edgeattn("table", digits_run.parent, "-o", out)
    assert done.returncode == 0, done.stderr
    assert "| cbam\\_digits | openvino:cpu | int8 |" in out.read_text().replace("cbam_digits", "cbam\\_digits")
    empty = edgeattn("table", tmp_path)
    assert empty.returncode == 3
    assert "holds no report.json; give run directories" in empty.stderr
