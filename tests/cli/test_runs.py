"""What a run leaves, and what the commands that read it say. The runs are real; see the fixtures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from edgeattn.bundle.manifest import verify
from tests.conftest import QUICK, ROOT, UNTIMED, edgeattn

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime, pytest.mark.openvino, pytest.mark.slow]


def read(run: Path) -> dict:
    found: dict = json.loads((run / "report.json").read_text())
    return found


@pytest.fixture
def copy(digits_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


def test_int8_cbam_loses_at_most_half_a_point_on_openvino(digits_run: Path) -> None:
    task = read(digits_run)["task"]
    assert task["reference"] >= 0.985
    assert task["drop"] <= 0.005


def test_int8_cbam_for_batch_1_on_onnxruntime_keeps_its_accuracy_and_an_impossible_gate_exits_1(tmp_path: Path) -> None:
    import onnx

    recipe = ROOT / "export_configs" / "cbam_digits.onnxruntime.int8.yaml"
    asked = (*QUICK, *UNTIMED, "--set", "gates.size_ratio=0.001", "--set", "rewrite.fix.batch=1")
    done = edgeattn("run", recipe, "-o", tmp_path / "run", *asked, "-q")
    assert done.returncode == 1, done.stderr + done.stdout
    report = read(tmp_path / "run")
    assert report["task"]["drop"] <= 0.005
    assert report["precision"]["int8_share"] >= 0.9
    (failed,) = (g for g in report["gates"] if g["verdict"] == "fail")
    assert (failed["name"], failed["limit"]) == ("size_ratio", 0.001)
    assert 0.1 < failed["observed"] < 0.5
    assert "size_ratio" in done.stdout
    assert "verdict: fail" in done.stdout
    (image,) = onnx.load(tmp_path / "run/bundle/engine/main.onnx").graph.input
    assert image.type.tensor_type.shape.dim[0].dim_value == 1
    assert report["task"]["samples"] == 450


def test_most_of_the_work_really_runs_in_int8(digits_run: Path) -> None:
    precision = read(digits_run)["precision"]
    assert precision["requested"] == "int8"
    assert precision["int8_share"] >= 0.9


def test_the_translator_is_token_exact(dates_run: Path) -> None:
    task = read(dates_run)["task"]
    assert task["samples"] >= 1000
    assert task["agreement"] == 1.0
    assert task["reference"] >= 0.99


def test_the_translator_is_token_exact_on_openvino(tmp_path: Path) -> None:
    recipe = ROOT / "export_configs" / "luong_dates.openvino.fp32.yaml"
    done = edgeattn("run", recipe, "-o", tmp_path / "run", *QUICK, *UNTIMED, "-q")
    assert done.returncode == 0, done.stderr + done.stdout
    assert read(tmp_path / "run")["task"]["agreement"] == 1.0


def test_parity_is_judged_after_every_stage(digits_run: Path) -> None:
    stages = [s["stage"] for s in read(digits_run)["parity"]["stages"]]
    assert stages == ["export", "rewrite", "quantize", "engine"]


def test_every_operator_is_standard(digits_run: Path, dates_run: Path) -> None:
    for run in (digits_run, dates_run):
        assert read(run)["operators"]["domains"] == ["ai.onnx"]


def test_the_rules_fired_and_say_how_often(digits_run: Path, dates_run: Path) -> None:
    digits = {r["rule"]: r["count"] for r in read(digits_run)["rewrites"]}
    assert digits["merge_shared_mlp"] == 3
    dates = {r["rule"]: r["count"] for r in read(dates_run)["rewrites"]}
    assert dates["hoist_keys"] == 1


def test_the_page_is_whole_and_shows_attention(digits_run: Path, dates_run: Path) -> None:
    for run, what in ((digits_run, "spatial mask"), (dates_run, "alignment")):
        page = (run / "report.html").read_text()
        assert what in page
        assert 'src="http' not in page
        assert 'href="http' not in page


def test_check_judges_a_run_again_and_writes_junit_and_markdown(copy: Path, tmp_path: Path) -> None:
    junit, summary = tmp_path / "junit.xml", tmp_path / "summary.md"
    done = edgeattn("check", copy, "--junit", junit, "--summary", summary)
    assert done.returncode == 0, done.stderr
    assert "verdict: pass" in done.stdout
    assert int(ET.parse(junit).getroot().find(".//testsuite").get("failures")) == 0  # type: ignore[union-attr,arg-type]
    assert "task_min" in summary.read_text().replace("\\", "")


def test_check_names_the_gate_the_limit_and_what_was_seen(copy: Path) -> None:
    recipe = copy / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("task_min: 0.98", "task_min: 0.9999"))
    done = edgeattn("check", copy, "--json")
    assert done.returncode == 1
    gate = next(g for g in json.loads(done.stdout)["gates"] if g["verdict"] == "fail")
    assert gate["name"] == "task_min"
    assert gate["limit"] == 0.9999
    assert gate["observed"] == read(copy)["task"]["engine"]


def test_check_is_inconclusive_when_latency_did_not_settle(copy: Path) -> None:
    report = read(copy)
    report["latency"]["verdict"], report["latency"]["why"] = "inconclusive", "the A/A control excludes 1.00"
    (copy / "report.json").write_text(json.dumps(report))
    recipe = copy / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("speedup: null", "speedup: 1.0"))
    done = edgeattn("check", copy)
    assert done.returncode == 75
    assert "verdict: inconclusive" in done.stdout


def test_check_refuses_a_run_whose_bundle_was_altered(copy: Path) -> None:
    flip_a_byte(copy / "bundle" / "engine" / "main.bin")
    done = edgeattn("check", copy)
    assert done.returncode == 6
    assert "main.bin" in done.stderr


def test_verify_passes_and_a_flipped_byte_is_refused_by_name(copy: Path) -> None:
    bundle = copy / "bundle"
    assert edgeattn("verify", bundle).returncode == 0
    for name in sorted(verify(bundle).files):
        original = (bundle / name).read_bytes()
        flip_a_byte(bundle / name)
        done = edgeattn("verify", bundle)
        assert done.returncode == 6, name
        assert one_error_line(done)
        assert name in done.stderr
        (bundle / name).write_bytes(original)


def test_report_draws_the_page_again_from_what_the_run_kept(copy: Path, tmp_path: Path) -> None:
    (copy / "report.html").unlink()
    assert edgeattn("report", copy).returncode == 0
    assert "spatial mask" in (copy / "report.html").read_text()
    elsewhere = tmp_path / "page.html"
    assert edgeattn("report", copy, "-o", elsewhere).returncode == 0
    assert edgeattn("report", copy, "-o", elsewhere).returncode == 2


def test_an_existing_output_is_kept_without_force(digits_run: Path) -> None:
    before = (digits_run / "report.json").read_bytes()
    done = edgeattn("run", ROOT / "export_configs" / "cbam_digits.openvino.int8.yaml", "-o", digits_run)
    assert done.returncode == 2
    assert "exists already; choose another --out, or pass --force" in done.stderr
    assert (digits_run / "report.json").read_bytes() == before


def test_bundles_run_without_torch(digits_run: Path, dates_run: Path) -> None:
    blocked = "torch", "onnx", "onnx_ir", "onnxscript", "pydantic", "typer", "yaml", "sklearn", "scipy"
    code = (
        "import sys, runpy\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {blocked}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        f"sys.argv = ['use_bundles.py', {str(digits_run / 'bundle')!r}, {str(dates_run / 'bundle')!r}]\n"
        f"runpy.run_path({str(ROOT / 'examples' / 'use_bundles.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "this is a" in done.stdout
    assert "'3rd of march, 1999' is 1999-03-03" in done.stdout


def test_inspect_tells_what_a_bundle_is(digits_run: Path) -> None:
    done = edgeattn("inspect", digits_run / "bundle", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)["graphs"]["main"]
    assert [a["kind"] for a in facts["attention"]] == ["cbam", "cbam", "cbam"]
    assert facts["precision"] == "int8 (QDQ)"


def test_parity_of_a_bundle_with_pytorch_on_real_inputs(dates_run: Path) -> None:
    done = edgeattn("parity", "pytorch:luong_dates", dates_run / "bundle", "--json")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["outputs"]) == {"logits", "h_out", "c_out", "feed_out", "alignment"}


def test_bench_times_a_bundle_beside_pytorch(digits_run: Path) -> None:
    done = edgeattn("bench", "pytorch:cbam_digits", digits_run / "bundle", "--pairs", 20, "--threads", 1, "--json")
    assert done.returncode in (0, 75), done.stderr
    entries = json.loads(done.stdout)["entries"]
    assert len(entries) == 2
    assert all(e["latency"]["p50_ms"] > 0 for e in entries)


def flip_a_byte(path: Path) -> None:
    data = np.frombuffer(path.read_bytes(), np.uint8).copy()
    data[len(data) // 2] ^= 1
    path.write_bytes(data.tobytes())


def one_error_line(done: subprocess.CompletedProcess[str]) -> bool:
    lines = [line for line in done.stderr.splitlines() if line.startswith("edgeattn: error: ")]
    return len(lines) == 1 and "Traceback" not in done.stderr
