"""The stages one by one on files, as a user chains them in a script."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeattn import calib, storage
from edgeattn.graphs import program_inputs
from edgeattn.program import Program, Stop, Wiring
from edgeattn.tasks.digits import TASK
from tests.conftest import edgeattn
from tests.graphs import conv_net, counter, model
from tests.quantize.test_gates import SE, net

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime, pytest.mark.openvino, pytest.mark.slow]


def done(*arguments: object) -> subprocess.CompletedProcess[str]:
    result = edgeattn(*arguments, "-q")
    assert result.returncode == 0, result.stderr
    return result


def test_export_rewrite_quantize_compile_and_parity(tmp_path: Path) -> None:
    names = ("plain.onnx", "rewritten.onnx", "int8.onnx", "bundle")
    plain, rewritten, quantized, bundle = (tmp_path / name for name in names)
    done("export", "cbam_digits", "-o", plain)
    rules = json.loads(done("rewrite", plain, "-o", rewritten, "--json").stdout)["rules"]
    assert {r["rule"]: r["count"] for r in rules}["merge_shared_mlp"] == 3
    notes = json.loads(
        done("quantize", rewritten, "-o", quantized, "--calib", "digits", "-t", "openvino", "--json").stdout
    )
    assert notes["samples"] == 300
    assert len(notes["attention"]) == 3
    built = json.loads(
        done("compile", quantized, "-o", bundle, "-t", "openvino", "--precision", "int8", "--json").stdout
    )
    assert built["precision"]["int8_share"] > 0.9
    assert done("verify", bundle).returncode == 0
    assert done("parity", plain, rewritten, "--precision", "rewrite").returncode == 0
    np.savez(tmp_path / "real.npz", **next(TASK.test(16, 16)).feeds)
    done("parity", plain, bundle, "--precision", "int8", "--inputs", tmp_path / "real.npz")
    strict = edgeattn("parity", plain, bundle, "--atol", "logits:1e-6", "--json")
    assert strict.returncode == 1
    assert json.loads(strict.stdout)["outputs"]["logits"]["verdict"] == "fail"


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_float_graph_does_not_become_an_int8_bundle(target: str, tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    result = edgeattn("compile", tmp_path / "m.onnx", "-o", tmp_path / "b", "-t", target, "--precision", "int8")
    assert result.returncode == 1
    assert "asked for int8, runs in fp32: 0.00 % of the work is as asked" in result.stderr
    assert "largest elsewhere: conv2 (fp32, 84.21 %), conv1 (fp32, 15.79 %)" in result.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("batch", "told"),
    [("batch", "gate not a scale: gate │ the sizes are not numbers"), (1, "gates as scales │ 1")],
)
def test_quantize_says_which_gates_became_scales_and_why_others_did_not(
    batch: int | str, told: str, tmp_path: Path
) -> None:
    onnx.save(net(SE, batch=batch), tmp_path / "m.onnx")
    images = np.random.default_rng(0).standard_normal((8, 3, 18, 18)).astype(np.float32)
    np.savez(tmp_path / "c.npz", image=images)
    shown = done("quantize", tmp_path / "m.onnx", "-o", tmp_path / "q.onnx", "--calib", tmp_path / "c.npz").stdout
    assert told in " ".join(shown.split())


def test_calibration_comes_from_an_npz_whose_faults_are_told(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    images = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "good.npz", image=images)
    np.savez(tmp_path / "bad.npz", images=images)
    notes = json.loads(
        done(
            "quantize", tmp_path / "m.onnx", "-o", tmp_path / "q.onnx", "--calib", tmp_path / "good.npz", "--json"
        ).stdout
    )
    assert notes["samples"] == 8
    result = edgeattn("quantize", tmp_path / "m.onnx", "-o", tmp_path / "r.onnx", "--calib", tmp_path / "bad.npz")
    assert result.returncode == 3
    assert "'images' that is no input; did you mean 'image'?" in result.stderr
    assert not (tmp_path / "r.onnx").exists()


def test_fp16_is_measured_without_calibration_data_and_judged_with_every_operator_rounded(tmp_path: Path) -> None:
    source, typed = tmp_path / "m.onnx", tmp_path / "m.fp16.onnx"
    onnx.save(conv_net(), source)
    notes = json.loads(done("quantize", source, "-o", typed, "--scheme", "fp16", "--json").stdout)
    assert (notes["layers"], notes["casts"], notes["cases"]) == (2, 2, 6)
    assert json.loads(done("inspect", typed, "--json").stdout)["graphs"]["main"]["precision"] == (
        "fp16, 2 of 2 layers; 2 Casts"
    )
    judged = done("parity", source, typed, "--precision", "fp16", "--json")
    assert (
        "onnxruntime does not compute in the types it names; judged with every fp16 operator rounded" in judged.stderr
    )
    assert 40 < json.loads(judged.stdout)["outputs"]["features"]["sqnr_db"] < 90  # FP32 would be beyond 120 dB
    again = edgeattn("quantize", typed, "-o", tmp_path / "n.onnx", "--scheme", "int8-weights")
    assert again.returncode == 4
    assert f"{typed}: graph 'main': weight 'w1_fp16' is float16, and schemes start from float32" in again.stderr


def test_a_program_of_several_graphs_is_a_directory(tmp_path: Path) -> None:
    graphs, wiring = counter()
    source = tmp_path / "program"
    source.mkdir()
    storage.save(Program(graphs, Wiring(wiring["feeds"], wiring["state"], Stop(**wiring["stop"]))), source)
    done("rewrite", source, "-o", tmp_path / "rewritten")
    done("rewrite", source, "-o", tmp_path / "rewritten", "--force")
    done("compile", tmp_path / "rewritten", "-o", tmp_path / "bundle", "-t", "openvino")
    done("verify", tmp_path / "bundle")
    done("parity", source, tmp_path / "bundle")
    assert sorted(json.loads(done("inspect", source, "--json").stdout)["graphs"]) == ["encoder", "step"]


def test_export_of_a_translator_leaves_its_graphs_and_wiring(tmp_path: Path) -> None:
    done("export", "luong_dates", "-o", tmp_path / "luong")
    assert sorted(p.name for p in (tmp_path / "luong").glob("*.*") if p.name != ".edgeattn") == [
        "encoder.onnx",
        "step.onnx",
        "wiring.json",
    ]
    outputs = json.loads(done("parity", "pytorch:luong_dates", tmp_path / "luong", "--json").stdout)["outputs"]
    assert {o["verdict"] for o in outputs.values()} == {"pass"}


def test_calibration_forces_a_tasks_own_text_where_it_has_any(tmp_path: Path) -> None:
    out = tmp_path / "gpt"
    assert edgeattn("export", "gpt_text", "-o", out).returncode == 0
    (case,) = calib.cases("text", program_inputs(storage.load(out)), 2)
    assert case.tokens is not None
    assert case.tokens.shape == (2, 63)
    assert [c.tokens for c in calib.cases("digits", program_inputs(Program({"main": digits_net()})), 2)] == [None]


def digits_net() -> onnx.ModelProto:
    """Takes what the task `digits` feeds, and gives it back."""
    shape: list[int | str] = ["batch", 1, 32, 32]
    return model([helper.make_node("Identity", ["image"], ["logits"])], {"image": shape}, {"logits": shape})
