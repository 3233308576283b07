"""Finished stages that runs share: what comes off the shelf is what was put there, and a key holds all that counts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from edgeattn import registry
from edgeattn.backends import Options
from edgeattn.job import Job
from edgeattn.program import Case, Program, Reference, StageRecord, Stop, Wiring
from edgeattn.progress import silent
from edgeattn.recipe import Recipe
from edgeattn.report.schema import OutputParity, StageParity
from edgeattn.shelf import Shelf
from edgeattn.source import Resolved
from tests.graphs import conv_net

pytestmark = pytest.mark.torch

FLOAT = "model: cam_digits\ntarget: onnxruntime\nrewrite: {measure: false}\n"
QUANTIZED = f"{FLOAT}precision: int8\nquantize: {{scheme: int8-static}}\n"


def job(text: str, engine: str = "onnxruntime") -> Job:
    recipe = Recipe.parse(text)
    options = Options("cpu", recipe.precision, 1)
    model = Resolved.__new__(Resolved)  # no stage below looks at it
    return Job(recipe, model, None, registry.get("backends", engine), options, silent)


def program() -> Program:
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((1, 3, 8, 8), np.float32), "a/b": np.array([True, False])}
    golden = {"y": rng.standard_normal((1, 4)), "none": np.zeros((0, 3))}
    case = Case("real-1", feeds, np.array([[1, 2]]), {"y": np.array([[np.nan, np.inf]], np.float32)}, golden)
    wiring = Wiring({"step.keys": "main.y"}, {"step.h": "step.h_out"}, Stop("step.token", "step.logits", 0, 1, 9))
    history = (StageRecord("load", 1.0), StageRecord("export", 2.0, {"opset": 18, "rules": [{"rule": "a"}]}))
    return Program({"main": conv_net(), "step": conv_net()}, wiring, Reference("eager", (case, Case("b", {}))), history)


def test_a_stage_done_once_is_the_same_for_the_next_run_with_all_it_said(tmp_path: Path) -> None:
    made, parity = (
        program(),
        StageParity(
            stage="export",
            case_count=2,
            outputs={"y": OutputParity(max_abs=1e-6, mean_abs=None, limit="1e-4", verdict="pass")},
        ),
    )
    first, second = job(FLOAT), job(FLOAT, "openvino")

    def make() -> Program:
        first.parity.append(parity)
        first.notes.append("a note")
        (tmp_path / "left1").mkdir()
        (tmp_path / "left1" / "example").write_text("an example")
        return made

    def fail() -> Program:
        raise AssertionError("done twice")

    (tmp_path / "shelf").mkdir()
    assert Shelf(tmp_path / "shelf").once(first, "export", make, tmp_path / "left1") is made
    taken = Shelf(tmp_path / "shelf").once(second, "export", fail, tmp_path / "left2")
    assert (taken.digest(), taken.wiring) == (made.digest(), made.wiring)
    assert taken.history == tuple(replace(record, cached=True) for record in made.history)
    assert (second.parity, second.notes) == ([parity], ["a note"])
    assert (tmp_path / "left2" / "example").read_text() == "an example"
    assert taken.reference is not None
    assert made.reference is not None
    for ours, theirs in zip(taken.reference.cases, made.reference.cases, strict=True):
        assert ours.name == theirs.name
        np.testing.assert_equal(vars(ours), vars(theirs))  # to the bit, NaN too


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (job(FLOAT), job(FLOAT, "openvino"), ["export", "rewrite"]),
        (job(FLOAT), job(QUANTIZED), ["export"]),  # INT8 takes other forms of a recurrent cell
        (job(QUANTIZED), job(QUANTIZED, "openvino"), ["export", "rewrite"]),  # each engine has its dialect
        (job(QUANTIZED), job(QUANTIZED), ["export", "rewrite", "quantize"]),
        (job(FLOAT.replace("false", "true")), job(FLOAT.replace("false", "true"), "openvino"), ["export"]),  # timed
        (job(FLOAT), job(f"{FLOAT}seed: 1\n"), []),
        (job(QUANTIZED), job(QUANTIZED.replace("static", "static, ranges: mse")), ["export", "rewrite"]),
    ],
)
def test_stages_are_shared_where_all_that_they_read_agrees(
    one: Job, other: Job, shared: list[str], tmp_path: Path
) -> None:
    made: list[str] = []

    def make(stage: str) -> Program:
        made.append(stage)
        return Program({"main": conv_net()})

    for asked in (one, other):
        made.clear()
        shelf = Shelf(tmp_path)
        for stage in ("export", "rewrite", *["quantize"] * (asked.recipe.quantize is not None)):
            shelf.once(asked, stage, partial(make, stage))
    stages = ["export", "rewrite", *["quantize"] * (other.recipe.quantize is not None)]
    assert made == [stage for stage in stages if stage not in shared]
