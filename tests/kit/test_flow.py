"""The whole way of a kit: written, run without edgeattn, come back, checked; and everything that is refused on it."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeattn import kit as package
from edgeattn import returned
from edgeattn.backends import _nvidia
from edgeattn.errors import BadInput, EdgeattnError, IntegrityError
from edgeattn.kit.board import verify as script
from tests.conftest import edgeattn
from tests.kit.kits import decoder, make, network, rehearse, run

pytestmark = pytest.mark.onnxruntime
NEWER = ("removeprefix", "removesuffix", "is_relative_to", "with_stem", "pairwise", "bit_count", "hardlink_to")
SCRIPTS = sorted(Path(package.__file__).parent.rglob("*.py"))


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CNN's kit with the report of a rehearsal; copied before it is changed."""
    kit = make(network(), tmp_path_factory.mktemp("kit") / "cnn", gates={"parity": True, "speedup": 1.5})
    done = rehearse(kit)
    assert done.returncode == 75, done.stderr
    return kit


@pytest.fixture
def kit(rehearsed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rehearsed, tmp_path / "kit"))


def test_a_rehearsal_comes_back_checked_and_never_passes_for_a_board(kit: Path, tmp_path: Path) -> None:
    done = edgeattn("check", kit, "--json", "--summary", tmp_path / "summary.md")
    assert done.returncode == 75, done.stderr
    assert {g["name"]: g["verdict"] for g in json.loads(done.stdout)["gates"]} == {
        "board": "inconclusive",
        "parity": "pass",
        "speedup": "n/a",
    }
    told = json.loads((kit / "report.json").read_text())
    assert told["execution"]["ran"] is False
    assert told["target"]["effective"].startswith("rehearsal:onnxruntime")
    summary = (tmp_path / "summary.md").read_text()
    assert "| made for | jetson:jp6.2, TensorRT 10.3 |" in summary
    assert "s** per inference" in summary  # a time, and no ratio of the engine to itself
    assert edgeattn("report", kit).returncode == 0
    assert "a rehearsal" in (kit / "report.html").read_text()


def test_a_decoder_is_run_step_by_step_as_the_harness_runs_it(tmp_path: Path) -> None:
    kit = make(decoder(), tmp_path / "kit")
    done = rehearse(kit)
    assert done.returncode == 75, done.stderr
    found = returned.read(kit)
    assert {name: out.verdict for name, out in found.parity.outputs.items()} == dict.fromkeys(
        ("total_out", "logits", "echo"), "pass"
    )
    assert found.latency is not None
    assert found.latency.unit == "sequence of 3 forced steps"


def test_two_kits_are_timed_in_the_same_rounds_and_another_models_is_refused(kit: Path, tmp_path: Path) -> None:
    twin = make(network(), tmp_path / "twin")
    done = run(kit, "verify", "--library", "onnxruntime", "--pairs", "20", "--against", str(twin))
    assert done.returncode == 75, done.stderr
    found = returned.read(kit)
    assert found.latency is not None
    assert found.latency.baseline == "net fp32"
    other = make(decoder(), tmp_path / "other")
    done = run(kit, "verify", "--library", "onnxruntime", "--against", str(other))
    assert (done.returncode, "takes other inputs than this kit" in done.stderr) == (2, True)


@pytest.mark.tensorrt_rtx
@pytest.mark.skipif(bool(_nvidia.capabilities()), reason="this machine has an NVIDIA GPU: engines run")
def test_the_same_scripts_build_with_tensorrt_rtx_and_say_in_one_line_why_they_do_not_run(tmp_path: Path) -> None:
    for name, program, plans in (("cnn", network(), 1), ("decoder", decoder(), 2)):
        kit = make(program, tmp_path / name)
        asked = ("--library", "tensorrt_rtx", "--compute-capability", "sm89")
        done = run(kit, "build", *asked)
        assert done.returncode == 0, done.stderr
        assert "no engines of a Jetson" in done.stdout
        assert len(list((kit / "plans").glob("*.plan"))) == plans
        done = run(kit, "verify", *asked)
        assert (done.returncode, len(done.stderr.splitlines())) == (4, 1)
        assert "the engines cannot run" in done.stderr
        assert not (kit / "report.json").exists()


@pytest.mark.tensorrt_rtx
def test_a_graph_that_the_parser_refuses_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    kit = make(network(), tmp_path / "kit")
    _edit_graph(kit)
    done = run(kit, "build", "--library", "tensorrt_rtx", "--compute-capability", "sm89")
    assert done.returncode == 4
    assert "main.onnx: node 'relu1' was refused by the parser" in done.stderr
    assert not [path for path in kit.iterdir() if path.name.startswith((".tmp", "plans"))]


def _edit_graph(kit: Path) -> None:
    """An operator that no engine has, and a MANIFEST that says it belongs there."""
    import onnx

    from edgeattn.kit.board.files import MANIFEST, sha256

    before = sha256(kit / "main.onnx")
    model = onnx.load(kit / "main.onnx")
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, kit / "main.onnx")
    text = (kit / MANIFEST).read_text().replace(before, sha256(kit / "main.onnx"))
    (kit / MANIFEST).write_text(text)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is here")
def test_without_tensorrt_it_says_where_that_comes_from(kit: Path) -> None:
    for name in ("build", "verify"):
        done = run(kit, name)
        assert (done.returncode, len(done.stderr.splitlines())) == (4, 1)
        assert "sudo apt-get install python3-libnvinfer" in done.stderr


def test_without_numpy_it_says_where_that_comes_from(kit: Path) -> None:
    command = [sys.executable, "-I", "-S", str(kit / "verify.py"), "--library", "onnxruntime"]  # -S: no site-packages
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (4, 1)
    assert "sudo apt-get install python3-numpy" in done.stderr


@pytest.mark.parametrize("file", ["main.onnx", "goldens.npz", "kit.json", "README.txt", "board/gates.py", "build.py"])
def test_an_altered_file_is_refused_on_the_board_and_at_home(kit: Path, file: str) -> None:
    data = bytearray((kit / file).read_bytes())
    data[-2] ^= 1
    (kit / file).write_bytes(data)
    done = rehearse(kit)
    assert (done.returncode, len(done.stderr.splitlines())) == (6, 1)
    assert f"{file}: is not the file that was packed" in done.stderr
    with pytest.raises(IntegrityError, match="is not the file that was packed"):
        returned.read(kit)


def _figures(report: dict[str, Any]) -> None:
    report["parity"]["outputs"]["features"]["max_abs"] = 0.0


def _speed(report: dict[str, Any]) -> None:
    report["latency"]["speedup"]["median"] = 3.0


def _verdict(report: dict[str, Any]) -> None:
    report["verdict"] = "pass"


def _board(report: dict[str, Any]) -> None:
    report["board"].update(rehearsal=False, jetson=True, version_fits=True, name="NVIDIA Jetson AGX Orin")


def _other_kit(report: dict[str, Any]) -> None:
    report["board"]["kit"] = "0" * 64


EDITS = [
    (_figures, "tells another max_abs of output 'features'"),
    (_speed, "tells another ratio than its timed rounds have"),
    (_verdict, "its verdict does not follow from its figures"),
    (_board, "its verdict does not follow from its figures"),
    (_other_kit, "is of another kit"),
]


@pytest.mark.parametrize(("edit", "said"), EDITS)
@pytest.mark.parametrize("signed", [False, True], ids=["as it is", "with its digest made anew"])
def test_an_edited_report_is_an_integrity_error(
    kit: Path, edit: Callable[[dict[str, Any]], None], said: str, signed: bool
) -> None:
    report = json.loads((kit / "report.json").read_text())
    edit(report)
    if signed:
        report["board"]["digest"] = ""
        report["board"]["digest"] = script.digest(report)
    (kit / "report.json").write_text(json.dumps(report))
    expected = said if signed or edit is _other_kit else "was altered after it was written"
    with pytest.raises(IntegrityError, match=expected):
        returned.read(kit)


@pytest.mark.parametrize("name", ["outputs.npz", "samples.npz"])
def test_a_report_without_its_evidence_is_not_believed(kit: Path, name: str) -> None:
    with np.load(kit / name) as arrays:
        changed = {key: arrays[key] + 1 for key in arrays.files}
    np.savez(kit / name, **changed)
    with pytest.raises(IntegrityError, match=f"rests on {name}"):
        returned.read(kit)
    (kit / name).unlink()
    assert edgeattn("check", kit).returncode == 6


def _cut(kit: Path) -> None:
    text = (kit / "report.json").read_text()
    (kit / "report.json").write_text(text[: len(text) // 2])


def _of_a_run(kit: Path) -> None:
    report = json.loads((kit / "report.json").read_text())
    del report["board"]
    (kit / "report.json").write_text(json.dumps(report))


def _resealed(kit: Path, old: str, new: str) -> None:
    """A kit.json with another word, a MANIFEST that fits it, and a report that names that MANIFEST."""
    from edgeattn.kit.board.files import sha256

    before = sha256(kit / "kit.json")
    (kit / "kit.json").write_text((kit / "kit.json").read_text().replace(old, new).replace('"cases"', '"case"'))
    (kit / "MANIFEST").write_text((kit / "MANIFEST").read_text().replace(before, sha256(kit / "kit.json")))
    report = json.loads((kit / "report.json").read_text())
    report["board"].update(kit=sha256(kit / "MANIFEST"), digest="")
    report["board"]["digest"] = script.digest(report)
    (kit / "report.json").write_text(json.dumps(report))


DAMAGED = [
    (_cut, "is not valid JSON"),
    (_of_a_run, "is not a board's report"),
    (lambda kit: (kit / "report.json").unlink(), "no report came back yet"),
    (lambda kit: (kit / "MANIFEST").unlink(), "is no build kit"),
    (lambda kit: _resealed(kit, '"wiring"', '"wirings"'), "not as edgeattn writes it"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGED)
def test_a_report_that_cannot_be_read_is_bad_input(kit: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(kit)
    with pytest.raises(BadInput, match=said):
        returned.read(kit)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_every_script_is_python_3_8_and_needs_the_standard_library_and_numpy_alone(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
        tops = {name.split(".")[0] for name in names}
        assert tops <= {"numpy", *sys.stdlib_module_names}, f"{path.name}: {tops}"
        assert getattr(node, "attr", "") not in NEWER, f"{path.name}:{node.lineno}: newer than Python 3.8"


def test_options_that_mean_nothing_are_usage_errors(kit: Path) -> None:
    for script_, *words in (
        ("verify", "--library", "onnxruntime", "--pairs", "3"),
        ("build", "--library", "tensorrt_rtx"),
        ("build", "--library", "onnxruntime"),
    ):
        assert run(kit, script_, *words).returncode == 2


def test_errors_are_edgeattns(tmp_path: Path) -> None:
    with pytest.raises(EdgeattnError, match="give the kit's directory"):
        returned.read(tmp_path)
