"""Every example is run as its reader would run it; a newcomer's change touches one place."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgeattn import runtime, theirs, weights
from tests.conftest import QUICK, ROOT, UNTIMED, edgeattn

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
    """The conformance tests of a kind about ``name`` pass; those about the others are this suite's already."""
    files = map(str, sorted((checkout / "tests/conformance").glob(f"test_{kind}*.py")))
    done = python(checkout, "-m", "pytest", *files, "-v", "-p", "no:cacheprovider", "-k", name)
    assert done.returncode == 0, done.stdout[-4000:]
    assert len(re.findall(rf"[\[-]{name}[\]-].* PASSED", done.stdout)) > 2, done.stdout[-4000:]


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


def report_of(recipe: str, out: Path, *settings: str) -> dict[str, Any]:
    """The report of an example's recipe, run as its README line says."""
    done = edgeattn("run", f"examples/{recipe}", "-o", out, *QUICK, *settings, "-q")
    assert done.returncode == 0, done.stderr + done.stdout
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def fired(report: dict[str, Any]) -> dict[str, int]:
    return {r["rule"]: r["count"] for r in report["rewrites"]}


def test_a_users_own_module_goes_through_the_same_path(tmp_path: Path) -> None:
    report = report_of("your_model.yaml", tmp_path / "run")  # timed, as a recipe is that says nothing
    assert set(report["parity"]["outputs"]) == {"output_0", "output_1"}
    assert fired(report)["merge_shared_mlp"] == 1
    assert (report["task"]["name"], report["task"]["metric"], report["task"]["samples"]) == ("pages", "f1", 200)
    assert report["task"]["engine"] == pytest.approx(report["task"]["reference"], abs=1e-3)
    assert report["task"]["engine"] > 0.9


def test_a_tutorials_translator_becomes_two_graphs_with_its_own_tokens(tmp_path: Path) -> None:
    report = report_of("tutorial_seq2seq.yaml", tmp_path / "run", *UNTIMED)
    assert fired(report)["hoist_keys"] == 1
    assert report["task"]["agreement"] == 1
    encode, spell, read, make = (
        theirs.load(f"{ROOT}/examples/tutorial_seq2seq.py:{name}", "name")
        for name in ("encode", "spell", "read", "Translator")
    )
    numbers = [0, 7, 13, 90, 100, 904, 1042, 2000, 9999]
    module = make().eval()
    weights.load(module, ROOT / "examples/tutorial_seq2seq.safetensors")
    with runtime.load(tmp_path / "run/bundle") as model:
        tokens = model.run(src=encode([spell(n) for n in numbers]))["tokens"]
    engine = ["".join(str(t - 2) for t in row if t > 1) for row in tokens]
    assert engine == read(module, [spell(n) for n in numbers])  # PyTorch's own Python loop
    assert engine == [str(n) for n in numbers]


@pytest.mark.parametrize("target", ["openvino:cpu", "onnxruntime"])
def test_a_quantum_circuit_runs_on_both_engines_in_standard_operators(target: str, tmp_path: Path) -> None:
    report = report_of("quantum_classifier.yaml", tmp_path / "run", "--set", f"target={target}", *UNTIMED)
    assert report["operators"]["domains"] == ["ai.onnx"]
    assert report["parity"]["outputs"]["logits"]["verdict"] == "pass"
    assert report["task"]["engine"] == report["task"]["reference"]


def test_a_users_own_module_is_exported_by_hand(tmp_path: Path) -> None:
    out = tmp_path / "head.onnx"
    done = edgeattn("export", "examples/your_model.py:head", "-o", out, "--shape", "features=1x32x20x20")
    assert done.returncode == 0, done.stderr
    seen = json.loads(edgeattn("inspect", out, "--json").stdout)["graphs"]["main"]["attention"]
    assert [a["kind"] for a in seen] == ["cbam"]
