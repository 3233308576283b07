"""Every example is run as its reader would run it; a newcomer's change touches one place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICK, ROOT, edgeattn

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime, pytest.mark.openvino, pytest.mark.slow]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project that a test may change."""
    for part in ("edgeattn", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def python(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def conforms(checkout: Path, kind: str, name: str) -> None:
    """The conformance tests of a kind pass, and some of them are about ``name``."""
    done = python(checkout, "-m", "pytest", f"tests/conformance/test_{kind}.py", "-v", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-4000:]
    assert name in done.stdout


def listed(checkout: Path, kind: str) -> str:
    done = python(checkout, "-m", "edgeattn", "list", kind)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_block_is_one_new_file(checkout: Path) -> None:
    shutil.copy(ROOT / "examples/add_a_block/simam.py", checkout / "edgeattn/blocks")
    assert "simam" in listed(checkout, "blocks")
    conforms(checkout, "blocks", "simam")


def test_a_rule_is_one_new_file_and_one_line(checkout: Path) -> None:
    shutil.copy(ROOT / "examples/add_a_rule/remove_transpose_pair.py", checkout / "edgeattn/rewrite")
    forgotten = python(checkout, "-m", "pytest", "-q", "tests/conformance/test_rules.py", "-k", "in_order")
    assert "rewrite/remove_transpose_pair.py is not in ORDER; add 'remove_transpose_pair'" in forgotten.stdout
    order = checkout / "edgeattn/rewrite/__init__.py"
    order.write_text(order.read_text().replace('"hoist_keys",', '"remove_transpose_pair",\n    "hoist_keys",', 1))
    assert "remove_transpose_pair" in listed(checkout, "rules")
    conforms(checkout, "rules", "remove_transpose_pair")


def test_a_backend_is_one_new_file(checkout: Path) -> None:
    shutil.copy(ROOT / "examples/add_a_backend/onnx_reference.py", checkout / "edgeattn/backends")
    assert "onnx-reference" in listed(checkout, "targets")
    conforms(checkout, "backends", "onnx_reference")


def test_a_users_own_module_goes_through_the_same_path(tmp_path: Path) -> None:
    done = edgeattn("run", "examples/your_model.yaml", "-o", tmp_path / "run", *QUICK, "-q")
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert set(report["parity"]["outputs"]) == {"output_0", "output_1"}
    assert {r["rule"]: r["count"] for r in report["rewrites"]}["merge_shared_mlp"] == 1


def test_a_users_own_module_is_exported_by_hand(tmp_path: Path) -> None:
    out = tmp_path / "head.onnx"
    done = edgeattn("export", "examples/your_model.py:head", "-o", out, "--shape", "features=1x32x20x20")
    assert done.returncode == 0, done.stderr
    seen = json.loads(edgeattn("inspect", out, "--json").stdout)["graphs"]["main"]["attention"]
    assert [a["kind"] for a in seen] == ["cbam"]
