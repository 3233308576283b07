"""TensorRT for RTX: real engines, built on a CPU for GPUs that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeattn import backends, export, progress, source
from edgeattn.backends import Options, _nvidia
from edgeattn.backends._common import precision_summary
from edgeattn.backends._tensorrt_build import _failure
from edgeattn.backends._tensorrt_layers import declared
from edgeattn.backends.tensorrt_rtx import BACKEND as RTX
from edgeattn.errors import EngineFailed
from edgeattn.graphs import macs_by_node
from edgeattn.harness import parity
from edgeattn.program import Case, Program, Reference, StageRecord
from edgeattn.quantize import Settings, quantize
from edgeattn.rewrite import rewrite
from tests.benchmarks.planted import planted
from tests.conftest import edgeattn
from tests.graphs import conv_net, model

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
    assert (told["execution"]["ran"], told["execution"]["why"]) == (False, "this machine has no NVIDIA GPU")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["device"] == "sm89,sm120"
    assert (tmp_path / "b" / manifest["graphs"]["main"]["file"]).stat().st_size > 100_000
    layers = json.loads((tmp_path / "b" / "engine" / "layers.main.json").read_text())
    assert [layer["stands_for"][0] for layer in layers if layer["role"] == "product"] == ["conv1", "conv2"]
    verified = edgeattn("verify", tmp_path / "b")
    assert verified.returncode == 4
    assert "opening a bundle runs the engine, and this machine has no NVIDIA GPU;" in verified.stderr
    assert "every file is as signed off, but was not run; go on where sm89 or sm120 is" in verified.stderr
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
    assert "runs the engine, and this machine has no NVIDIA GPU" in done.stderr
    assert at in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_recipe_for_fp16_says_which_scheme_makes_the_graph_so(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("model: cam_digits\ntarget: tensorrt-rtx:sm89\nprecision: fp16\n")
    done = edgeattn("run", tmp_path / "r.yaml", "-o", tmp_path / "run", "-q")
    assert done.returncode == 2
    assert "r.yaml:3: tensorrt-rtx:sm89 computes in what the graph says" in done.stderr
    assert "add 'quantize: {scheme: fp16}'" in done.stderr


def test_a_profile_and_buckets_are_built_and_told(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    asked = ("compile", tmp_path / "m.onnx", "-t", "tensorrt-rtx", "--json")
    done = edgeattn(*asked, "-o", tmp_path / "b", "--profile", "batch=1:1:1", "--profile", "batch=2:4:8")
    assert done.returncode == 0, done.stderr
    settings = json.loads(done.stdout)["precision"]["detail"]["main"]["settings"]
    assert settings["profiles"] == [{"batch": [1, 1, 1]}, {"batch": [2, 4, 8]}]
    for profile, code, message in (
        ("batch=2:1:8", 2, "--profile: expected sizes in order and below 2^31, got 2:1:8"),
        ("bath=1:1:8", 2, "profile: no dynamic dimension 'bath'; did you mean 'batch'?"),
        ("batch=7:8:9", 2, "none of the inputs that the program is judged on fits batch 7 to 9"),
    ):
        done = edgeattn(*asked, "-o", tmp_path / "c", "--profile", profile)
        assert (done.returncode, len(done.stderr.splitlines())) == (code, 1)
        assert message in done.stderr
        assert not (tmp_path / "c").exists()


def test_a_graph_that_its_parser_refuses_is_one_line_with_the_node(tmp_path: Path) -> None:
    bits = model(
        [helper.make_node("BitShift", ["x", "one"], ["y"], name="shift", direction="LEFT")],
        {"x": [4]},
        {"y": [4]},
        {"one": np.ones(1, np.uint8)},
    )
    for value in (*bits.graph.input, *bits.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.UINT8
    with pytest.raises(EngineFailed) as raised:
        RTX.compile(Program({"main": bits}), Options("sm89"), tmp_path)
    assert "TensorRT for RTX: its parser refuses node 'shift': " in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_progress_is_heard_and_who_listens_can_stop_the_build(tmp_path: Path) -> None:
    program = Program({"main": conv_net()})
    options = Options("sm89", profiles=({"batch": (1, 1, 2)},))
    heard: list[tuple[str, int, int | None]] = []
    with progress.heard_by(lambda *told: heard.append(told)):
        RTX.compile(program, options, tmp_path)
    steps = [done for what, done, total in heard if what == "building engine"]
    assert steps == list(range(1, heard[0][2] + 1 if heard[0][2] else 0))
    assert len(steps) > 3

    def impatient(what: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress.heard_by(impatient):
        RTX.compile(program, options, tmp_path)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_what_the_graph_says_is_what_the_builder_made(precision: str, tmp_path: Path) -> None:
    plain = Program({"main": conv_net(32)}, history=(StageRecord("test", 0.0),))
    rng = np.random.default_rng(0)
    data = [Case(f"c{i}", {"image": rng.standard_normal((2, 3, 8, 8), np.float32)}) for i in range(2)]
    plain = replace(plain, reference=Reference("test", tuple(data)))
    scheme = "int8-static" if precision == "int8" else precision
    calibrated = data if precision == "int8" else []
    made = quantize(plain, scheme, backends.oracle, calibrated, Settings(qdq=RTX.qdq))
    engine = RTX.compile(made, Options("sm89,sm120", precision), tmp_path)
    told = engine.effective["main"]["precision"]
    most = max(told["macs_in"], key=told["macs_in"].get)
    assert most == precision
    assert sum(told["counts"].values()) == 2
    assert engine.effective["main"]["settings"]["precision_told_by"] == "the builder's list of layers"
    assert precision_summary(declared(made.graphs["main"]), macs_by_node(made.graphs["main"])) == told
    assert engine.effective["main"]["build"]["peak_bytes"] >= 0


def test_turing_is_refused_where_it_has_no_arithmetic(tmp_path: Path) -> None:
    product = Program({"main": planted()["gemm/plain"]})
    (refusal,) = RTX.unsupported(product, Options("sm75,sm89", "fp32"))
    assert "an FP32 Gemm, which sm75 has no kernel for" in refusal.reason
    assert RTX.unsupported(product, Options("sm89", "fp32")) == []
    assert RTX.unsupported(Program({"main": conv_net()}), Options("sm75", "fp32")) == []  # it multiplies no matrices


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes")
def test_a_builder_that_dies_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    code = (
        "import os, signal, sys; import tensorrt_rtx as trt; from edgeattn.cli import main\n"
        "from edgeattn.backends.tensorrt_rtx import TensorRtRtxBackend as B\n"
        "B.configure = lambda self, config, options: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "sys.argv = ['edgeattn', *sys.argv[1:]]; main()"
    )
    command = ["compile", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "b"), "-t", "tensorrt-rtx:sm89", "-q"]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 1
    assert "died by SIGSEGV" in done.stderr
    assert not (tmp_path / "b").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_a_builder_that_runs_out_of_memory_is_exit_5() -> None:
    errors = ["IBuilder::buildSerializedNetwork: Error Code 2", "Unexpected exception std::bad_alloc"]
    assert _failure(errors, "TensorRT for RTX", "building").exit_code == 5
    assert _failure(errors[:1], "TensorRT for RTX", "building").exit_code == 4
    assert "building failed without a word" in str(_failure([], "TensorRT for RTX", "building"))


@pytest.mark.paper
@pytest.mark.torch
def test_int8_takes_at_most_0_55_of_the_fp32_engine_of_cbam_resnet50(tmp_path: Path) -> None:
    program = rewrite(export.export(source.resolve("cbam_resnet50").source), backends.oracle)
    assert program.reference is not None
    data = [c for c in program.reference.cases if parity.stands_for_calibration(c, program.reference.cases)]
    sizes = {}
    for precision in ("fp32", "int8"):
        made = program
        if precision == "int8":
            made = quantize(program, "int8-static", backends.calibrator, data, Settings(qdq=RTX.qdq))
        (tmp_path / precision).mkdir()
        engine = RTX.compile(made, Options("sm89,sm120", precision), tmp_path / precision)
        sizes[precision] = engine.effective["main"]["build"]["bytes"]
    assert sizes["int8"] <= 0.55 * sizes["fp32"]
