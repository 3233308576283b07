"""``run --targets`` end to end, and ``check`` of what it leaves: real engines, real refusals, real interruptions."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.conftest import QUICK, ROOT, UNTIMED, edgeattn, missing

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime, pytest.mark.openvino, pytest.mark.slow]

RECIPE = ROOT / "export_configs" / "cam_digits.onnxruntime.fp32.yaml"
JUDGED = ["onnxruntime-cpu.fp32", "openvino-cpu.fp32"]
BUILD, CHECK, REPORT = re.findall(r"```\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.DOTALL)[0].splitlines()


def words(command: str) -> list[str]:
    """What follows the program's name in a command of the page."""
    return shlex.split(command)[1:]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The matrix that the page's command leaves, and what it printed with ``--json``."""
    here = tmp_path_factory.mktemp("matrix")
    (here / "export_configs").symlink_to(ROOT / "export_configs")
    done = edgeattn(*words(BUILD), *QUICK, *UNTIMED, "--json", cwd=here)
    assert done.returncode == 0, done.stderr
    return here / "matrix", json.loads(done.stdout)


def test_the_model_is_exported_once_and_every_target_is_judged(built: tuple[Path, dict]) -> None:
    out, told = built
    assert told == json.loads((out / "matrix.json").read_text())
    first, second, _ = told["parts"]
    assert [part["name"] for part in (first, second)] == JUDGED
    for part in (first, second):
        assert (part["status"], part["verdict"], part["parity"]["stage"]) == ("judged", "pass", "engine")
        assert part["task"]["agreement"] == 1.0
        assert part["build_seconds"] > 0
        assert isinstance(part["build_peak_bytes"], int)
        report = json.loads((out / part["name"] / "report.json").read_text())
        assert report["latency"] == part["latency"]
    assert (first["shared"], second["shared"]) == ([], ["export", "rewrite"])


def test_an_engine_for_another_machine_is_built_or_refused_and_never_a_pass(built: tuple[Path, dict]) -> None:
    out, told = built
    part = told["parts"][2]
    assert (part["latency"], part["task"]) == (None, None)
    assert part["reason"]
    if missing("tensorrt_rtx"):
        assert (part["status"], part["exit_code"]) == ("refused", 4)
        assert part["hint"] == "pip install 'edgeattn[tensorrt-rtx]'"
        assert not (out / part["name"]).exists()
    else:
        assert (part["status"], part["verdict"], part["parity"]["stage"]) == ("built", "built", "rewrite")
        assert part["shared"] == ["export", "rewrite"]
        assert part["size"]["engine_bytes"] > 1 << 20
        assert "cannot" in part["reason"] or "no NVIDIA GPU" in part["reason"]


def test_a_directory_of_targets_is_checked_whole(built: tuple[Path, dict]) -> None:
    out, _ = built
    done = edgeattn(*words(CHECK), "--baseline", out, cwd=out.parent)
    assert done.returncode == 0, done.stderr
    assert "3 parts: 2 pass, 1 " in done.stdout
    assert ET.parse(out.parent / "matrix.junit.xml").getroot().attrib["skipped"] == "1"
    assert "2 pass" in (out.parent / "matrix.md").read_text()
    engine = next((out / JUDGED[0] / "bundle" / "engine").glob("*.onnx"))
    before = engine.read_bytes()
    engine.write_bytes(before[:-1] + b"x")
    try:
        done = edgeattn("check", out, "--json")
    finally:
        engine.write_bytes(before)
    assert done.returncode == 6
    altered, whole, _ = json.loads(done.stdout)["parts"]
    assert (altered["status"], altered["exit_code"], whole["verdict"]) == ("failed", 6, "pass")


def test_the_pages_of_a_directory_of_targets_are_built_again(built: tuple[Path, dict]) -> None:
    out, _ = built
    pages = {path: path.read_text() for path in (out / "matrix.html", *(out / n / "report.html" for n in JUDGED))}
    for path in pages:
        path.unlink()
    done = edgeattn(*words(REPORT), "--json", cwd=out.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["report"] == "matrix/matrix.html"
    assert (out / "matrix.html").read_text() == pages[out / "matrix.html"]
    assert all("<svg" in (out / name / "report.html").read_text() for name in JUDGED)  # the raw rounds were there
    (out.parent / "pages").mkdir()
    done = edgeattn("report", out, "-o", out.parent / "pages" / "table.html")
    assert done.returncode == 0, done.stderr
    assert f'href="../matrix/{JUDGED[0]}/report.html"' in (out.parent / "pages" / "table.html").read_text()


def test_a_refusal_has_its_reason_and_its_code_and_alone_it_is_no_success(tmp_path: Path) -> None:
    wanted = ("--targets", "onnxruntime", "--precisions", "fp16", "--allow-refused")  # it would compute in FP32
    done = edgeattn("run", RECIPE, *wanted, "-o", tmp_path / "out", "--json", "-q")
    assert done.returncode == 4, done.stderr
    (part,) = json.loads(done.stdout)["parts"]
    assert (part["status"], part["verdict"], part["exit_code"]) == ("refused", None, 4)
    assert part["reason"]
    assert part["hint"]
    assert not (tmp_path / "out" / part["name"]).exists()


def test_a_part_that_takes_too_long_loses_no_other(tmp_path: Path) -> None:
    wanted = ("--targets", "onnxruntime,openvino", "--timeout", "0.5", "-o", tmp_path / "out", "--json", "-q")
    done = edgeattn("run", RECIPE, *wanted)
    assert done.returncode == 5, done.stderr
    parts = json.loads(done.stdout)["parts"]
    assert [part["status"] for part in parts] == ["failed", "failed"]
    assert all("took longer than 0.5 s" in part["reason"] for part in parts)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == [".edgeattn", "matrix.html", "matrix.json", "matrix.md", "matrix.xml", "recipe.yaml"]


def test_an_interruption_ends_the_part_too_and_leaves_nothing(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "edgeattn",
        "run",
        str(RECIPE),
        "--targets",
        "onnxruntime",
        "-o",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "export" in line:
            break
    process.send_signal(signal.SIGINT)
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 130
    assert told.strip().splitlines()[-1] == "edgeattn: error: interrupted; nothing was written"
    time.sleep(0.5)  # the kernel takes a moment to end what died with its parent
    assert list(tmp_path.iterdir()) == []
    assert [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in _read(p)] == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--targets", "openvno"), "--targets: unknown target 'openvno'; did you mean 'openvino'?"),
        (("--targets", "openvino", "--set", "target=onnxruntime"), "--set target=onnxruntime: names the target"),
        (("--precisions", "int9"), "--precisions: unknown precision 'int9'"),
        (("--allow-refused",), "--allow-refused: goes with --targets"),
    ],
)
def test_what_is_asked_wrongly_is_told_before_any_work(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = edgeattn("run", RECIPE, *words, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
