"""An undone rule leaves the smallest graph on which it fails, with inputs and how to run it."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgeattn import rewrite as stage
from edgeattn.program import Program
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Outcome, ProgramRule, as_programs
from edgeattn.rewrite._sample import graph
from edgeattn.rewrite._view import dims
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime
real = stage._named


class Wrong(GraphRule):
    """Takes every Sigmoid for a Tanh; right only where the input is far from zero."""

    name = "wrong"
    exactness = ALLCLOSE
    anchors = ("Sigmoid",)

    def match(self, node, view):
        return Match(node, (node,))

    def rewrite(self, match, build):
        x = match.anchor.inputs[0]
        build.replace(match.anchor.outputs[0], build.op("Tanh", x, shape=dims(x)))

    def examples(self):
        return as_programs()

    near_misses = examples


class Crashes(Wrong):
    """Has a bug that needs its neighbour."""

    name = "crashes"

    def rewrite(self, match, build):
        if match.anchor.inputs[0].producer().op_type == "Relu":
            raise ValueError("no Relu expected")


class WrongProgram(ProgramRule):
    """Changes a weight."""

    name = "wrong_program"
    exactness = ALLCLOSE

    def apply(self, program):
        copies = {}
        for name, model in program.graphs.items():
            copies[name] = onnx.ModelProto()
            copies[name].CopyFrom(model)
            for node in copies[name].graph.node:
                node.op_type = "Tanh" if node.op_type == "Sigmoid" else node.op_type
        return Outcome(replace(program, graphs=copies), 1)

    def examples(self):
        return as_programs()

    near_misses = examples


def chain() -> Program:
    """Twenty nodes: one Sigmoid saturates on both sides of its Tanh, a later one does not."""
    lines = ["a0 = Relu(x)", "far = Add(a0, hundred)", "s0 = Sigmoid(far)", "a1 = Mul(s0, x)"]
    lines += [f"a{i} = Relu(a{i - 1})" for i in range(2, 10)]
    lines += ["s1 = Sigmoid(a9)"] + [f"a{i} = Abs({'s1' if i == 10 else f'a{i - 1}'})" for i in range(10, 16)]
    text = "(float[batch,8] x) => (float[batch,8] y) { " + " ".join(lines) + " y = Relu(a15) }"
    return draw_cases(Program({"main": graph(text, hundred=np.float32(100))}))


def undone(monkeypatch, rule, program, folder):
    monkeypatch.setattr(stage, "_named", lambda name: rule if name == "remove_expand" else real(name))
    lines: list[str] = []
    result = stage.rewrite(program, open_plain, only=["remove_expand"], repro=folder, progress=lines.append)
    (record,) = result.history[-1].notes["rules"]
    return record, lines, result


def test_a_rule_with_wrong_numbers_leaves_the_one_region_that_shows_it(monkeypatch, tmp_path):
    record, lines, result = undone(monkeypatch, Wrong(), chain(), tmp_path)
    assert record["repro"] == "wrong"
    assert "differs by" in record["undone"]
    assert lines[-1].endswith("(see wrong/)")
    left = tmp_path / "wrong"
    assert {p.name for p in left.iterdir()} == {"README.md", "before.onnx", "after.onnx", "inputs.npz"}
    before, after = (onnx.load(left / f"{name}.onnx") for name in ("before", "after"))
    assert [n.op_type for n in before.graph.node] == ["Sigmoid"]
    assert [n.op_type for n in after.graph.node] == ["Tanh"]
    assert [v.name for v in before.graph.input] == ["a9"], "the Sigmoid that saturates is right, and must not be chosen"
    assert [n.op_type for n in result.graphs["main"].graph.node].count("Sigmoid") == 2


def test_the_readme_runs_and_prints_the_difference(monkeypatch, tmp_path):
    undone(monkeypatch, Wrong(), chain(), tmp_path)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "wrong" / "README.md").read_text(), re.S)[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "wrong", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.1


def test_a_rule_that_raises_leaves_a_region_with_the_neighbour_it_needs(monkeypatch, tmp_path):
    record, _, _ = undone(monkeypatch, Crashes(), chain(), tmp_path)
    assert record["undone"] == "raised ValueError: no Relu expected"
    left = tmp_path / "crashes"
    assert not (left / "after.onnx").exists()
    operators = [n.op_type for n in onnx.load(left / "before.onnx").graph.node]
    assert "Sigmoid" in operators
    assert "Relu" in operators
    assert len(operators) <= 3
    assert "no Relu expected" in (left / "README.md").read_text()


def test_a_program_rule_leaves_the_program_and_its_inputs(monkeypatch, tmp_path):
    rule = real("hoist_keys")
    program = draw_cases(rule.examples()[0])
    model = program.graphs["step"]
    for node in model.graph.node:
        node.op_type = "Sigmoid" if node.op_type == "Softmax" else node.op_type
        if node.op_type == "Sigmoid":
            del node.attribute[:]
    record, _, _ = undone(monkeypatch, WrongProgram(), draw_cases(program), tmp_path)
    assert record["repro"] == "wrong_program"
    left = tmp_path / "wrong_program"
    assert (left / "before" / "wiring.json").exists()
    assert (left / "after" / "step.onnx").exists()
    assert "tokens" in np.load(left / "inputs.npz").files


def test_nothing_is_left_where_no_rule_fails_or_nobody_asked(monkeypatch, tmp_path):
    stage.rewrite(chain(), open_plain, repro=tmp_path / "undone")
    assert not (tmp_path / "undone").exists()
    record, _, _ = undone(monkeypatch, Wrong(), chain(), None)
    assert "repro" not in record


def test_a_region_is_cut_with_what_subgraphs_read_from_outside():
    from edgeattn.rewrite._cut import Graph

    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]> g (bool c, float[4] x, float[4] z) => (float[4] y) {
            a = Relu(x)
            y = If (c) <then_branch = t () => (float[4] p) { p = Add(a, z) },
                        else_branch = e () => (float[4] q) { q = Sub(a, z) }> }"""
    )
    cut = Graph(model)
    assert cut.boundary(cut.around(["y"], 0)) == (["c", "a", "z"], ["y"])
    assert cut.around(["y"], 1) == [0, 1]


@pytest.mark.torch
def test_a_run_points_from_its_notes_to_what_is_left_in_its_directory(monkeypatch, tmp_path):
    from edgeattn.job import prepare
    from edgeattn.pipeline import export_stage, rewrite_stage
    from edgeattn.recipe import FOLDER, Recipe

    monkeypatch.setattr(stage, "_named", lambda name: Wrong() if name == "remove_expand" else real(name))
    job = prepare(Recipe.load(FOLDER / "cbam_digits.onnxruntime.fp32.yaml"))
    rewrite_stage(job, export_stage(job), tmp_path / "undone")
    (note,) = [note for note in job.notes if "undone" in note]
    assert note.startswith("rewrite rule wrong was undone: case ")
    assert note.endswith("(see undone/wrong/)")
    left = onnx.load(tmp_path / "undone" / "wrong" / "before.onnx")
    assert [n.op_type for n in left.graph.node] == ["Sigmoid"]


def test_the_command_line_leaves_it_beside_the_output_and_never_in_place_of_something_else(tmp_path):
    from edgeattn.cli.stages import _left_beside

    found, out = tmp_path / "found", tmp_path / "out.onnx"
    found.mkdir()
    assert _left_beside(out, found) is None
    (found / "wrong").mkdir()
    (found / "wrong" / "README.md").write_text("first")
    assert _left_beside(out, found) == tmp_path / "out.onnx.undone"
    (found / "wrong" / "README.md").write_text("second")
    assert (_left_beside(out, found) / "wrong" / "README.md").read_text() == "second"
    (tmp_path / "mine.onnx.undone").mkdir()
    left = _left_beside(tmp_path / "mine.onnx", found)
    assert left != tmp_path / "mine.onnx.undone"
    assert (left / "wrong").is_dir()
    assert not any((tmp_path / "mine.onnx.undone").iterdir())
