"""``edgeattn explain-latency`` on files and runs, as a user starts it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn import registry
from tests.conftest import edgeattn
from tests.graphs import conv_net

pytestmark = [pytest.mark.onnxruntime, pytest.mark.openvino]
KEYS = {"source", "target", "precision", "total_ms", "runs", "threads", "isa", "kinds", "modules", "attention"}
KEYS |= {"attention_share", "macs_in", "nodes", "causes", "warnings", "ship"}


def test_a_float_model_asked_to_be_int8_is_told_to_be_quantized(tmp_path: Path) -> None:
    onnx.save(conv_net(32), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", image=np.zeros((1, 3, 8, 8), np.float32))
    asked = ("--precision", "int8", "-t", "openvino", "--inputs", tmp_path / "x.npz", "--threads", 1, "--pairs", 0)
    done = edgeattn("explain-latency", tmp_path / "m.onnx", *asked, "--json", "-q")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == KEYS
    assert (found["target"], found["precision"], found["ship"]) == ("openvino:cpu", "int8", None)
    assert found["macs_in"] == {"fp32": 1.0}
    assert found["nodes"][0]["kernel"]
    (cause,) = (c for c in found["causes"] if c["cause"] == "float-layers")
    assert set(cause["nodes"]) == {"conv1", "conv2"}


@pytest.mark.parametrize(
    ("name", "more", "code", "words"),
    [
        ("none.onnx", (), 2, "no such file"),
        ("text.onnx", (), 3, "text.onnx"),
        ("m.onnx", ("-t", "onnxruntme"), 2, "did you mean 'onnxruntime'"),
        ("m.onnx", ("--precision", "int4"), 2, "unknown precision 'int4'"),
        ("m.onnx", ("--precision", "fp16"), 4, "fp16"),
        ("odd.onnx", (), 4, "NoSuchOperator"),
        ("run", (), 3, "is a run without an engine"),
        ("empty", (), 3, "is a directory without wiring.json"),
        ("m.onnx", ("--inputs", "bad.npz"), 3, "images"),
    ],
)
def test_what_cannot_be_explained_is_one_line_and_the_contracts_code(
    name: str, more: tuple[str, ...], code: int, words: str, tmp_path: Path
) -> None:
    odd = conv_net()
    onnx.save(odd, tmp_path / "m.onnx")
    odd.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(odd, tmp_path / "odd.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text("{}")
    np.savez(tmp_path / "bad.npz", images=np.zeros((1, 3, 8, 8), np.float32))
    done = edgeattn("explain-latency", name, *more, "-q", cwd=tmp_path)
    errors = [line for line in done.stderr.splitlines() if line.startswith("edgeattn: error: ")]
    assert done.returncode == code, done.stderr
    assert len(errors) == 1
    assert words in errors[0]
    assert done.stdout == ""


@pytest.mark.torch
@pytest.mark.slow
def test_a_run_is_explained_with_its_own_record_and_sample(digits_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(digits_run, tmp_path / "run"))
    done = edgeattn("explain-latency", run, "--threads", 1, "--pairs", 20, "--json", "-q")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["macs_in"]["int8"] > 0.9
    assert set(found["attention"]) == {f"cbam blocks.{i}.attention" for i in range(3)}
    gates = [c for c in found["causes"] if c["why"] == "fp32: inside an attention gate (policy gate=float)"]
    assert gates
    assert set(found["ship"]["speedup"]) >= {"fp32"}
    told = json.loads((run / "report.json").read_text())["profile"]
    assert {c["cause"] for c in told["causes"]} >= {"float-layers"}
    assert "Where the time goes" in (run / "report.md").read_text()
    assert "Where the time goes" in (run / "report.html").read_text()
    elsewhere = edgeattn("explain-latency", run / "bundle", "-t", "onnxruntime", "--pairs", 0)
    assert elsewhere.returncode == 0, elsewhere.stderr
    assert "onnxruntime:cpu, asked for int8" in elsewhere.stdout


@pytest.mark.torch
@pytest.mark.slow
def test_a_bundle_that_is_called_int8_and_runs_float_fails_check_and_bench(digits_run: Path, tmp_path: Path) -> None:
    """Engines no longer build one, so the record of an honest one is turned."""
    from edgeattn.bundle import manifest as manifests

    bundle = Path(shutil.copytree(digits_run / "bundle", tmp_path / "bundle"))
    manifest = manifests.verify(bundle)
    precision = manifest.engine["main"]["precision"]
    precision["macs_in"], precision["int8_macs"] = {"fp32": precision["macs"]}, 0
    (bundle / "manifest.json").write_text(manifest.dumps())
    assert registry.get("backends", "openvino").probe().available
    for command in (("check", bundle), ("bench", bundle, bundle, "--pairs", 20, "--threads", 1)):
        done = edgeattn(*command, "-q")
        assert done.returncode == 1, done.stderr
        assert "asked for int8, runs in fp32: 0.00 % of the work is as asked" in done.stderr
