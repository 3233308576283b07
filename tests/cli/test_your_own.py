"""A user's own module, weights, inputs and task at the command line: one line for each mistake, in their terms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.conftest import edgeattn
from tests.graphs import conv_net

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = torch.nn.Embedding(10, 4), torch.nn.Linear(4, 2)
    def forward(self, tokens, mask):
        x = self.embed(tokens) * mask.unsqueeze(2)
        return self.out(x.sum(1))
"""
BRANCH = NET.replace("        return self.out", "        if x.sum() > 0:\n            x = -x\n        return self.out")
DYNAMIC = ("--dynamic", "tokens:0=n", "--dynamic", "mask:0=n", "--dynamic", "tokens:1=t", "--dynamic", "mask:1=t")


def written(tmp_path: Path, text: str = NET, **arrays: object) -> None:
    (tmp_path / "net.py").write_text(text)
    if arrays:
        np.savez(tmp_path / "example.npz", **arrays)


def told(tmp_path: Path, code: int, line: str, *arguments: object) -> None:
    """The command fails with exactly one error line, and writes nothing."""
    before = sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__")
    done = edgeattn(*arguments, "-q", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stderr == f"edgeattn: error: {line}\n"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == before


TOKENS, MASK = np.array([[3, 9, 4], [5, 5, 7]]), np.ones((2, 3), bool)


@pytest.mark.slow
def test_real_inputs_and_torch_saved_weights_are_taken_and_said(tmp_path: Path) -> None:
    written(tmp_path, tokens=TOKENS, mask=MASK)
    state = {"embed.weight": torch.ones(10, 4), "out.weight": torch.ones(2, 4), "out.bias": torch.zeros(2)}
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "w.pt")
    done = edgeattn(
        *(
            "export",
            "net.py:Net",
            "-o",
            "net.onnx",
            "--inputs",
            "example.npz",
            "--weights",
            "w.pt",
            *DYNAMIC,
            "--json",
            "-q",
        ),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "edgeattn: warning: w.pt: 'module.' was taken off every key\n"
    facts = json.loads(done.stdout)
    assert facts["graphs"]["main"] == ["tokens: int64[n, t]", "mask: bool[n, t]"]
    assert facts["parity"]["case_count"] == 7  # six seeded cases and the user's own


def test_an_example_without_an_array_is_exit_3(tmp_path: Path) -> None:
    written(tmp_path, tokens=TOKENS)
    what = "has no array 'mask', which forward(tokens, mask) takes"
    line = f"example.npz: {what}; it has tokens; save every input by its name"
    told(tmp_path, 3, line, "export", "net.py:Net", "-o", "net.onnx", "--inputs", "example.npz")


def test_an_unknown_type_is_exit_2(tmp_path: Path) -> None:
    written(tmp_path)
    line = "--shape tokens=1x5:int46: unknown type 'int46' (did you mean 'int64' or 'int8'?)"
    told(tmp_path, 2, line, "export", "net.py:Net", "-o", "net.onnx", "--shape", "tokens=1x5:int46")


def test_a_forward_that_fails_is_told_at_its_line_with_its_inputs(tmp_path: Path) -> None:
    written(tmp_path)
    line = (
        "net.py:8 in forward: The size of tensor a (5) must match the size of tensor b (6) at non-singleton "
        "dimension 1; inputs were tokens: int64[1, 5], mask: bool[1, 6]; declare the inputs it takes, or mend forward()"
    )
    shapes = ("--shape", "tokens=1x5:int64", "--shape", "mask=1x6:bool")
    told(tmp_path, 3, line, "export", "net.py:Net", "-o", "net.onnx", *shapes)


@pytest.mark.slow
def test_control_flow_on_values_is_told_at_its_line(tmp_path: Path) -> None:
    written(tmp_path, BRANCH)
    line = (
        "net.py:9 in forward: Python control flow depends on a tensor's value (data-dependent), which no ONNX graph "
        "can follow; use torch.where for `if`, a fixed number of steps for `while`, or split the graph there"
    )
    shapes = ("--shape", "tokens=1x5:int64", "--shape", "mask=1x5:bool")
    told(tmp_path, 4, line, "export", "net.py:Net", "-o", "net.onnx", *shapes)


TASK = """
import numpy as np
from edgeattn.tasks import UNSCORED, Batch, Task
def load(samples, size):
    yield Batch({"images": np.ones((size, 3, 8, 8), np.float32)}, np.zeros(size))
TASK = Task("mine", UNSCORED, load, load, lambda outputs, targets: targets, dict)
"""


def test_calibration_from_a_users_task_is_told_in_its_terms(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    (tmp_path / "mine.py").write_text(TASK)
    line = "task mine.py: sample 0: has an array 'images' that is no input; did you mean 'image'?"
    told(tmp_path, 3, line, "quantize", "m.onnx", "-o", "q.onnx", "--calib", "mine.py")
    (tmp_path / "mine.py").write_text(TASK.replace('"images"', '"image"'))
    done = edgeattn("quantize", "m.onnx", "-o", "q.onnx", "--calib", "mine.py", "--json", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"] == 4


LOADER = """
import numpy as np
def give():
    print("from the loader")
    rng = np.random.default_rng(0)
    while True: yield rng.standard_normal((3, 8, 8), dtype=np.float32)
"""


@pytest.mark.slow
def test_calibration_data_of_ones_own_in_a_recipe_without_a_task(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(CONV_NET)
    (tmp_path / "data.py").write_text(LOADER)
    lines = ("model: net.py:Net", "export: {shapes: {input: 1x3x8x8}}", "target: onnxruntime", "precision: int8")
    quantized = "quantize: {calib: data.py:give, ranges: percentile, samples: 40}"
    (tmp_path / "r.yaml").write_text(
        "\n".join([*lines, quantized, "rewrite: {measure: false}", "latency: {pairs: 20, threads: 1}", ""])
    )
    done = edgeattn("run", "r.yaml", "-o", "out", "--json", "-q", cwd=tmp_path)
    assert done.returncode in (0, 1, 75), done.stderr  # the net is untrained: what its gates say is not the point
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    notes = next(stage["notes"] for stage in report["stages"] if stage["name"] == "quantize")
    assert (notes["samples"], notes["calibration"]["method"]) == (40, "percentile")
    assert len(notes["calibration"]["fingerprint"]) == 64
    assert any("judged on samples that it was calibrated on" in note for note in report["notes"])
    line = "data.py: has no loader 'gives'; did you mean 'give'?"
    told(tmp_path, 2, line, "run", "r.yaml", "-o", "out2", "--set", "quantize.calib=data.py:gives")


CONV_NET = """
from torch import nn
def Net():
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU())
"""


@pytest.mark.openvino
@pytest.mark.slow
def test_a_recipe_names_a_task_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: cbam_digits\ntask: mine.py\ntarget: openvino:cpu\n")
    line = "mine.py: no such file; give path/to/file.py:task"
    told(tmp_path, 2, line, "run", "r.yaml", "-o", "out")
    (tmp_path / "mine.py").write_text(TASK)
    line = "task mine.py: has an array 'images' that is no input; did you mean 'image'?"
    told(tmp_path, 3, line, "run", "r.yaml", "-o", "out")
