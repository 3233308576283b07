"""TensorRT for RTX: real engines, built on a CPU for GPUs that are not here."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from edgeattn.backends import _nvidia
from tests.conftest import edgeattn
from tests.graphs import conv_net

pytestmark = [
    pytest.mark.tensorrt_rtx,
    pytest.mark.onnxruntime,
    pytest.mark.skipif(bool(_nvidia.capabilities()), reason="this machine has an NVIDIA GPU: engines run"),
]


def test_compile_builds_one_engine_for_two_gpus_and_says_that_it_did_not_run(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    done = edgeattn("compile", tmp_path / "m.onnx", "-o", tmp_path / "b", "-t", "tensorrt-rtx:sm89,sm120", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["precision"]["effective"] == "fp32"
    assert told["execution"] == {"ran": False, "why": "this machine has no NVIDIA GPU"}
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["device"] == "sm89,sm120"
    assert (tmp_path / "b" / manifest["graphs"]["main"]["file"]).stat().st_size > 100_000
    verified = edgeattn("verify", tmp_path / "b")
    assert verified.returncode == 4
    assert "cannot run here: this machine has no NVIDIA GPU" in verified.stderr
    assert len(verified.stderr.splitlines()) == 1


def test_a_run_is_built_and_not_a_pass(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "model: cam_digits\ntarget: tensorrt-rtx:sm89\ngates: {parity: true, task_drop: 0.01, size_ratio: 5.0}\n"
    )
    done = edgeattn("run", tmp_path / "r.yaml", "-o", tmp_path / "run", "--json", "-q")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["verdict"] == "built"
    assert {g["name"]: g["verdict"] for g in report["gates"]} == {
        "precision": "pass",
        "parity": "n/a",
        "task_drop": "n/a",
        "size_ratio": "pass",
    }
    assert (report["task"], report["latency"]) == (None, None)
    assert [s["stage"] for s in report["parity"]["stages"]] == ["export", "rewrite", "engine"]
    assert edgeattn("check", tmp_path / "run").returncode == 0
    assert "Built, not run" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.parametrize(
    ("change", "at"), [("tune: true", "'tune'"), ("quantize: {gate: auto}\nprecision: int8", "'gate: auto'")]
)
def test_what_measures_on_the_engine_is_refused_before_any_work(change: str, at: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"model: cam_digits\ntarget: tensorrt-rtx:sm89\n{change}\n")
    done = edgeattn("run", tmp_path / "r.yaml", "-o", tmp_path / "run", "-q")
    assert done.returncode == 4
    assert f"cannot run here: this machine has no NVIDIA GPU, and {at}" in done.stderr
    assert not (tmp_path / "run").exists()
