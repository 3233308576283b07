"""``compile`` for devices that are not here, in buckets, with hints and blobs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import onnx
import pytest

pytest.importorskip("openvino")

from edgeattn.backends._openvino_devices import look
from tests.backends.test_openvino_buckets import feeds, mean, pooling
from tests.conftest import edgeattn

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime, pytest.mark.openvino]


def compiled(folder: Path, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return edgeattn("compile", folder / "m.onnx", "-o", folder / name, *arguments, "-q")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(pooling(), tmp_path / "m.onnx")
    return tmp_path


@pytest.mark.skipif(look("npu").here, reason="an NPU is here")
def test_a_dynamic_model_for_the_npu_is_refused_with_the_flag_and_built_with_it(folder: Path) -> None:
    refused = compiled(folder, "npu", "-t", "openvino:npu", "--precision", "fp16")
    assert refused.returncode == 4
    assert "an NPU takes static shapes, and length is dynamic; give --buckets 16,32,64" in refused.stderr
    (folder / "lengths.txt").write_text("3 90\n9 10\n14 5\n20\n")
    flags = ("--buckets", "2", "--lengths", folder / "lengths.txt", "--json")
    built = compiled(folder, "npu", "-t", "openvino:npu", "--precision", "fp16", *flags)
    assert built.returncode == 0, built.stderr
    told = json.loads(built.stdout)
    assert told["buckets"] == [3, 20]  # (3, 20) pads 11·10 + 6·5 positions; (9, 20) and (14, 20) pad 6·90 and more
    assert told["execution"]["ran"] is False
    assert told["execution"]["answered_by"] == "its files on the CPU in fp32"
    assert told["gate"]["verdict"] == "n/a"
    opened = edgeattn("verify", folder / "npu")
    assert opened.returncode == 4
    assert look("npu").why in opened.stderr
    assert "every file is as signed off, but was not run" in opened.stderr


def test_a_model_without_a_mask_is_not_put_in_buckets(folder: Path) -> None:
    onnx.save(mean(), folder / "m.onnx")
    refused = compiled(folder, "b", "-t", "openvino:cpu", "--buckets", "16")
    assert refused.returncode == 4
    assert "output 'y': padded to a bucket it answers otherwise" in refused.stderr
    assert not (folder / "b").exists()


def test_a_bundle_in_buckets_takes_any_length_up_to_the_largest(folder: Path) -> None:
    from edgeattn import runtime
    from edgeattn.errors import BadInput

    assert compiled(folder, "b", "-t", "openvino:cpu", "--buckets", "8,16").returncode == 0
    with runtime.load(folder / "b") as model:
        assert model.selftest().passed
        assert model.run(feeds(11))["weights"].shape == (1, 11)
        with pytest.raises(BadInput, match="'length' is 17, and the largest bucket is 16"):
            model.run(feeds(17))


def test_engines_for_one_request_and_for_many_are_not_timed_together(folder: Path) -> None:
    for name in ("latency", "throughput"):
        assert compiled(folder, name, "-t", "openvino:cpu", "--engine", f"hint={name}").returncode == 0
    refused = edgeattn("bench", folder / "latency", folder / "throughput", "--pairs", "20")
    assert refused.returncode == 2
    assert "is built for throughput, and" in refused.stderr
    assert "compile it with --engine hint=latency" in refused.stderr


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (("-t", "openvino:myriad"), 2, "'myriad' was removed in OpenVINO 2023.0"),
        (("-t", "openvino:cpu", "--engine", "hint=speed"), 2, "'hint' is latency or throughput, not 'speed'"),
        (("-t", "onnxruntime", "--engine", "blob=true"), 2, "onnxruntime has no setting 'blob'; it has none"),
        (("-t", "openvino", "--lengths", "l.txt"), 2, "lengths without a number of buckets"),
        (("-t", "openvino", "--buckets", "8", "--engine", "stateful=true"), 2, "leave stateful or them out"),
    ],
)
def test_an_option_that_cannot_be_is_told_in_one_line(
    flags: tuple[str, ...], code: int, message: str, folder: Path
) -> None:
    refused = compiled(folder, "b", *flags)
    assert refused.returncode == code
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not (folder / "b").exists()


MODULE = """
import torch
from torch import nn

class Pool(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.score = nn.Linear(8, 1)
        self.out = nn.Linear(8, 4)

    def forward(self, x, mask):
        s = self.score(x).squeeze(-1).masked_fill(~mask, -1e9)
        return self.out((s.softmax(-1).unsqueeze(-1) * x).sum(1))

def make():
    return Pool().eval()
"""
RECIPE = """
model: {module}:make
target: {target}
precision: {precision}
export: {{shapes: {{x: 1x12x8, mask: "1x12:bool"}}, dynamic: ["x:1=length", "mask:1=length"]}}
rewrite: {{measure: false}}
buckets: {{sizes: [8, 16]}}
engine: {{hint: {hint}}}
latency: {{pairs: 20, threads: 1}}
gates: {{parity: true}}
"""


@pytest.mark.slow
@pytest.mark.parametrize(("target", "precision", "hint"), [("cpu", "fp32", "throughput"), ("npu", "fp16", "latency")])
def test_a_recipe_builds_in_buckets_and_says_what_was_judged_where(
    target: str, precision: str, hint: str, tmp_path: Path
) -> None:
    if target == "npu" and look("npu").here:
        pytest.skip("an NPU is here")
    (tmp_path / "m.py").write_text(MODULE)
    values = {"module": tmp_path / "m.py", "target": f"openvino:{target}", "precision": precision, "hint": hint}
    (tmp_path / "r.yaml").write_text(RECIPE.format(**values))
    done = edgeattn("run", tmp_path / "r.yaml", "-o", tmp_path / "run", "-q")
    report = json.loads((tmp_path / "run" / "report.json").read_text()) if done.returncode in (0, 75) else {}
    assert report, done.stderr
    stages = {stage["stage"]: stage["outputs"] for stage in report["parity"]["stages"]}
    judged = stages["engine" if target == "cpu" else "stand-in"]
    assert {output["verdict"] for output in judged.values()} == {"pass"}
    assert any("built for throughput" in note for note in report["notes"]) == (hint == "throughput")
    if target == "npu":
        assert report["verdict"] == "built"
        gates = {gate["name"]: gate["verdict"] for gate in report["gates"]}
        assert gates["precision"] == "n/a"
        assert report["latency"] is None
        assert report["precision"]["effective"] == "not compiled here"
