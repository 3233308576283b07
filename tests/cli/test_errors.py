"""A user's mistakes: one clear line, the right exit code, and nothing half-written."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from tests.conftest import ROOT, UNTIMED, edgeattn
from tests.graphs import conv_net

RECIPE = (ROOT / "export_configs" / "cbam_digits.openvino.int8.yaml").read_text()


def fails(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("edgeattn: error: ")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0]


def test_an_unknown_command_is_told_the_nearest() -> None:
    fails(edgeattn("runn"), 2, "No such command 'runn'", "Did you mean")


def test_an_unknown_option_names_its_command() -> None:
    fails(edgeattn("run", "--fast"), 2, "--fast", "edgeattn run --help")


def test_a_broken_recipe_is_told_its_line_and_the_nearest_key(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.replace("precision: int8", "precison: int8"))
    fails(edgeattn("run", recipe, "-o", tmp_path / "out"), 2, f"{recipe}:4", "precison", "did you mean 'precision'?")
    assert not (tmp_path / "out").exists()


def test_an_unknown_recipe_name_is_told_the_nearest() -> None:
    fails(edgeattn("run", "cbam_digits.openvino.int4"), 2, "did you mean 'cbam_digits.openvino.int8'")


@pytest.mark.torch
@pytest.mark.openvino
def test_an_unknown_model_is_told_the_nearest(tmp_path: Path) -> None:
    done = edgeattn(
        "run", ROOT / "export_configs/cbam_digits.openvino.int8.yaml", "-o", tmp_path / "o", "--set", "model=cbam_digit"
    )
    fails(done, 2, "unknown model 'cbam_digit'", "did you mean 'cbam_digits'")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_target_is_told_the_nearest(tmp_path: Path) -> None:
    done = edgeattn(
        "run", ROOT / "export_configs/cbam_digits.openvino.int8.yaml", "-o", tmp_path / "o", "--set", "target=openvin"
    )
    fails(done, 2, "openvin", "did you mean 'openvino'")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\x07" * 64, ""),
        (onnx.ModelProto().SerializeToString(), ""),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "rewrite", "compile"])
def test_a_corrupt_onnx_is_refused(command: str, content: bytes, cause: str, tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(content)
    extra = {
        "inspect": [],
        "rewrite": ["-o", tmp_path / "out.onnx"],
        "compile": ["-o", tmp_path / "out", "-t", "onnxruntime"],
    }
    fails(edgeattn(command, file, *extra[command]), 3, "m.onnx", cause)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.onnxruntime
def test_a_scheme_that_finds_nothing_to_quantize_writes_no_float_graph_under_its_name(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")  # convolutions, which int8-dynamic leaves alone
    done = edgeattn("quantize", tmp_path / "m.onnx", "-o", tmp_path / "q.onnx", "--scheme", "int8-dynamic")
    fails(done, 4, "m.onnx", "int8-dynamic quantizes nothing in this model")
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.onnxruntime
def test_a_vendor_operator_is_refused_with_exit_4(tmp_path: Path) -> None:
    model = conv_net()
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "QuickGelu", "com.microsoft"
    onnx.save(model, tmp_path / "m.onnx")
    fails(edgeattn("rewrite", tmp_path / "m.onnx", "-o", tmp_path / "out.onnx"), 4, "com.microsoft", "QuickGelu")
    assert not (tmp_path / "out.onnx").exists()


def without(package: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line on a machine where a package is not installed."""
    code = (
        "import sys, importlib.util\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] == {package!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda n, *a: None if n == {package!r} else find(n, *a)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"sys.argv = ['edgeattn', *{list(map(str, arguments))!r}]\n"
        "from edgeattn.cli import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_missing_engine_is_told_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    done = without("openvino", "compile", tmp_path / "m.onnx", "-o", tmp_path / "o", "-t", "openvino")
    fails(done, 4, "'openvino' is not installed", "pip install 'edgeattn[openvino]'")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    "command", [["run", "cbam_digits.openvino.int8"], ["list", "models"], ["export", "cbam_digits"]]
)
def test_a_missing_pytorch_is_told_with_the_extra_that_brings_it(command: list[str], tmp_path: Path) -> None:
    extra = [] if command[0] == "list" else ["-o", tmp_path / "o"]
    fails(without("torch", *command, *extra), 4, "'torch' is not installed", "pip install 'edgeattn[export]'")
    assert not (tmp_path / "o").exists()


@pytest.mark.onnxruntime
def test_an_output_is_not_replaced_without_force_and_never_the_input(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    (tmp_path / "out.onnx").write_text("precious")
    fails(edgeattn("rewrite", tmp_path / "m.onnx", "-o", tmp_path / "out.onnx"), 2, "exists already", "--force")
    assert (tmp_path / "out.onnx").read_text() == "precious"
    fails(edgeattn("rewrite", tmp_path / "m.onnx", "-o", tmp_path / "m.onnx", "--force"), 2, "m.onnx")


@pytest.mark.torch
@pytest.mark.openvino
@pytest.mark.slow
@pytest.mark.parametrize("phase", ["export to ONNX", "calibrate", "latency, paired with PyTorch"])
def test_ctrl_c_leaves_nothing(phase: str, tmp_path: Path) -> None:
    recipe = ROOT / "export_configs" / "cbam_digits.openvino.int8.yaml"
    command = [sys.executable, "-m", "edgeattn", "run", str(recipe), "-o", str(tmp_path / "out")]
    with subprocess.Popen(
        [*command, *UNTIMED, "--set", "latency.pairs=100000"], stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stderr is not None
        assert any(phase in line for line in process.stderr), f"never reached '{phase}'"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130, rest
    assert "edgeattn: error: interrupted" in rest
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []


@pytest.mark.torch
def test_int8_without_data_asks_for_it(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    fails(edgeattn("quantize", tmp_path / "m.onnx", "-o", tmp_path / "q.onnx"), 2, "--calib", "real data")


def test_debug_shows_the_traceback_beside_the_line() -> None:
    done = edgeattn("list", "modles", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "edgeattn: error: unknown kind 'modles'; did you mean 'models'?" in done.stderr


def test_a_ctrl_c_that_surfaces_as_another_error_is_still_one() -> None:
    code = """
import os, signal, time
from edgeattn import cli
from edgeattn.cli import app as commands

def hidden(**_):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    except KeyboardInterrupt:
        raise ImportError("numpy failed to import") from None

commands.app = hidden
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "edgeattn: error: interrupted; nothing was written\n"
