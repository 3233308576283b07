"""Scheme nncf: NNCF's quantizer under our policy, as OpenVINO IR that runs and answers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn import backends, registry
from edgeattn.backends import Options
from edgeattn.errors import MissingPackage, Unsupported
from edgeattn.program import Case, Program
from edgeattn.quantize import assert_runs_in, quantize
from edgeattn.recipe import Recipe
from tests.conftest import edgeattn
from tests.quantize.test_policy import GATE, IMAGES
from tests.quantize.test_quantize import residual_net

pytestmark = [
    pytest.mark.openvino,
    pytest.mark.onnxruntime,
    pytest.mark.filterwarnings("ignore"),
]  # NNCF's imports warn
CASES = [Case("calibration", {"image": image}) for image in IMAGES]


@pytest.fixture(scope="module")
def quantized() -> Program:
    pytest.importorskip("nncf", reason="needs NNCF: pip install 'edgeattn[nncf]'")
    return quantize(Program({"main": residual_net(attention=True)}), "nncf", backends.oracle, CASES)


def test_the_result_answers_and_runs_in_int8_with_its_gate_in_float(quantized: Program, tmp_path: Path) -> None:
    feeds = CASES[0].feeds
    reference = backends.oracle(Program(quantized.graphs))["main"].run(feeds)["y"]
    engine = registry.get("backends", "openvino")
    built = engine.compile(quantized, Options(precision="int8"), tmp_path)
    opened = engine.open(tmp_path / built.files["main"], Options(precision="int8")).run(feeds)["y"]
    for answer in (backends.oracle(quantized)["main"].run(feeds)["y"], opened):
        noise = np.linalg.norm(reference - answer)
        assert noise > 0, "the float graph answered"
        assert 20 * np.log10(np.linalg.norm(reference) / noise) > 25  # four layers of 8 bits, a step each
    assert built.effective["main"]["precision"]["counts"] == {"fp32": 2, "int8": 4}
    assert set(quantized.history[-1].notes["kept_float"]) == GATE


def test_another_graph_drops_the_ir_and_the_digest_knows_it(quantized: Program) -> None:
    record = quantized.history[-1]
    assert quantized.after(record, graphs=quantized.graphs).ir == {}
    assert quantized.after(record).ir == quantized.ir
    assert quantized.digest() != Program(quantized.graphs).digest()


def test_onnxruntime_refuses_the_ir(quantized: Program) -> None:
    (refusal,) = registry.get("backends", "onnxruntime").unsupported(quantized, Options(precision="int8"))
    assert "OpenVINO" in refusal.reason


def test_other_targets_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="for openvino alone; take int8-static, which is the portable one") as told:
        assert_runs_in("nncf", "onnxruntime")
    assert told.value.exit_code == 4
    assert_runs_in("nncf", "openvino")
    assert_runs_in("int8-static", "onnxruntime")


def test_without_nncf_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingPackage, match=r"pip install 'edgeattn\[nncf\]'"):
        quantize(Program({"main": residual_net()}), "nncf", backends.oracle, CASES)


def test_the_command_writes_ir_and_prints_nothing_of_nncfs(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="needs NNCF: pip install 'edgeattn[nncf]'")
    onnx.save(residual_net(attention=True), tmp_path / "m.onnx")
    np.savez(tmp_path / "calib.npz", image=np.concatenate(list(IMAGES)))
    words = ("quantize", tmp_path / "m.onnx", "--scheme", "nncf", "--calib", tmp_path / "calib.npz", "-q")
    assert edgeattn(*words, "-o", tmp_path / "ir").returncode == 4  # the default target is ONNX Runtime
    done = edgeattn(*words, "-o", tmp_path / "ir", "-t", "openvino")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {p.name for p in (tmp_path / "ir").iterdir()} >= {"main.xml", "main.bin"}
    session = registry.get("backends", "openvino").open(tmp_path / "ir" / "main.xml", Options(precision="int8"))
    assert session.run(CASES[0].feeds)["y"].shape == (1, 32, 8, 8)


def test_a_recipe_refuses_a_scheme_that_leaves_no_portable_onnx() -> None:
    from edgeattn.job import _refuse_unportable

    text = "model: cbam_digits\ntarget: openvino\nprecision: int8\nquantize: {scheme: nncf}\n"
    with pytest.raises(Unsupported, match=r"recipe:4.*leaves no portable ONNX"):
        _refuse_unportable(Recipe.parse(text))
