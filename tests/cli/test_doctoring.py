"""``edgeattn doctor``: exit codes, JSON, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.benchmarks.planted import planted
from tests.conftest import edgeattn

GRAPHS = planted()


@pytest.fixture
def norm(tmp_path: Path) -> Path:
    """A LayerNormalization in opset 18: not for TensorRT 8.5 in two ways."""
    onnx.save(GRAPHS["layernorm/one"], tmp_path / "norm.onnx")
    return tmp_path / "norm.onnx"


def test_what_would_be_refused_exits_4_with_node_reason_mend_and_source(norm: Path) -> None:
    done = edgeattn("doctor", norm, "--target", "jetson:jp5.1", "--json")
    assert done.returncode == 4, done.stderr
    told = json.loads(done.stdout)
    assert (told["engine"], told["passes"]) == ("TensorRT 8.5", False)
    operator, opset = sorted(told["findings"], key=lambda f: f["check"])
    assert (operator["node"], operator["mend"]) == ("LayerNormalization_y", "expand:LayerNormalization")
    assert "operators.md" in operator["source"]
    assert opset["mend"] == "opset:17"


def test_what_passes_exits_0_and_says_so(norm: Path) -> None:
    done = edgeattn("doctor", norm, "--target", "tensorrt:10.3")
    assert done.returncode == 0, done.stderr
    assert "nothing that TensorRT 10.3 would refuse in fp32" in done.stdout
    assert "not known: whether TensorRT 10.3 agrees" in done.stdout


@pytest.mark.onnxruntime
def test_fix_writes_a_graph_that_passes(norm: Path) -> None:
    out = norm.with_name("mended.onnx")
    done = edgeattn("doctor", norm, "-t", "jetson:jp5.1", "--fix", "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["applied"] == ["expand:LayerNormalization", "opset:17"]
    assert told["parity"]["outputs"]["y"]["verdict"] == "pass"
    assert edgeattn("doctor", out, "-t", "jetson:jp5.1").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--target", "jetson:jp9"), "known: jp5.1"),
        (("--target", "tensorrt-rtx:sm98"), "sm89, sm120, sm121"),
        (("--target", "vpu"), "take openvino:npu"),
        (("--target", "tensorrd:10.3"), "did you mean 'tensorrt'"),
        ((), "for which target?"),
        (("--target", "tensorrt", "--precision", "int3"), "unknown precision 'int3'"),
        (("--target", "tensorrt", "-o", "x.onnx"), "nothing is written without --fix"),
    ],
)
def test_wrong_usage_exits_2(norm: Path, arguments: tuple[str, ...], told: str) -> None:
    done = edgeattn("doctor", norm, *arguments)
    assert done.returncode == 2
    assert told in done.stderr


def test_without_a_model_it_tells_of_this_machine() -> None:
    told = json.loads(edgeattn("doctor", "--json").stdout)
    assert {"onnxruntime", "openvino", "tensorrt-rtx"} <= {engine["engine"] for engine in told["engines"]}
    assert "jp6.2" in told["targets"]["jetson"]
