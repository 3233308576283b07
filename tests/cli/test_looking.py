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
