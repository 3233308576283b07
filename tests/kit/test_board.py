"""What the scripts read off a board: its files, TensorRT's version, and the engine inspector."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from edgeattn.kit.board import building, files, gates, machine, precision, versions
from edgeattn.kit.board.refusal import Refused
from edgeattn.report.boards import BoardReport

ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:cool\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=2 NAME=MODE_30W >\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "1300500000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1300500000\n",
    "sys/class/devfreq/17000000.gpu/governor": "nvhost_podgov\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "2201600\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48500\n",
    "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "-256000\n",  # a zone that is switched off
}


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    for name, text in ORIN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_board_tells_its_name_release_power_mode_clocks_and_temperatures(orin: Path) -> None:
    told = machine.describe(orin)
    assert (told["name"], told["jetson"], told["l4t"]) == ("NVIDIA Jetson AGX Orin Developer Kit", True, "36.4.3")
    assert told["power_mode"] == "2 MODE_30W"
    assert told["clocks"]["gpu"] == {"mhz": 1300.5, "max_mhz": 1300.5, "held": True, "governor": "nvhost_podgov"}
    assert told["clocks"]["cpu"]["held"] is False
    assert told["temperatures_c"] == {"cpu-thermal": 48.5}
    known = {"library": "tensorrt", "version": "10.3.0", "wanted": "", "version_fits": True, "rehearsal": False}
    hashes = dict.fromkeys(("kit", "outputs", "samples", "digest"), "0")
    warm = {"before": {"cpu-thermal": 48.5}, "after": {"cpu-thermal": 61.2}}
    board = BoardReport.model_validate({**told, **known, **hashes, "temperatures_c": warm})
    assert board.setting == (
        "power mode 2 MODE_30W; gpu 1300 of 1300 MHz, held; cpu 730 of 2202 MHz, not held; warmest zone 48 to 61 °C"
    )


def test_a_machine_that_is_no_board_says_so_and_does_not_pass_for_one(tmp_path: Path) -> None:
    told = machine.describe(tmp_path)
    assert (told["jetson"], told["l4t"], told["power_mode"], told["clocks"]) == (False, "", "", {})
    board = {**told, "rehearsal": False, "version_fits": True, "wanted": "", "library": "tensorrt", "version": "10.3"}
    (gate,) = gates.judge({"board": board}, {})
    assert (gate["verdict"], "no Jetson" in gate["why"]) == ("inconclusive", True)
    assert gates.judge({"board": {**board, "jetson": True}}, {})[0]["verdict"] == "pass"
    other = {**board, "jetson": True, "version_fits": False}
    assert gates.judge({"board": other}, {})[0]["verdict"] == "inconclusive"


def test_the_versions_of_every_jetpack_are_in_the_table() -> None:
    assert set(versions.JETPACKS.values()) <= set(versions.ROWS)
    assert [versions.row_of("tensorrt", v).version for v in ("8.5.2.2", "8.6.2", "10.7.0", "10.13.3.9", "11.5")] == [
        *("8.5", "8.6", "10.3", "10.13", "11.4")
    ]
    with pytest.raises(Refused, match=r"TensorRT 7\.1\.3 is older than 8\.5"):
        versions.row_of("tensorrt", "7.1.3")


def test_another_tensorrt_than_the_kit_was_made_for_is_refused_unless_it_is_wanted() -> None:
    kit = {"library": {"version": "10.3"}, "target": "jetson:jp6.2"}
    versions.check("tensorrt", "10.3.0.30", kit, any_version=False)
    versions.check("tensorrt", "10.7.0", kit, any_version=True)
    with pytest.raises(Refused, match=r"TensorRT 10\.7\.0 is here, .* made for 10\.3 .*; .* go on with --any-version"):
        versions.check("tensorrt", "10.7.0", kit, any_version=False)


# As TensorRT 8 (format and type in words) and 10 (the type's own name) write them.
CONV8 = {
    "Name": "/conv1/Conv + /relu/Relu",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "x", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
    "Weights": {"Type": "Int8", "Count": 432},
}
GEMM10 = {
    "Name": "__myl_FcAdd_myl0_1",
    "LayerType": "gemm",
    "Inputs": [{"Name": "y", "Format/Datatype": "Half"}],
    "TacticName": "sm80_xmma_gemm_f16f16_f16f16",
    "Metadata": "[ONNX Layer: /fc/Gemm][ONNX Layer: /act/Tanh]",
}
FUSED10 = {
    "Name": "k",
    "LayerType": "kgen",
    "Inputs": [{"Format/Datatype": "Float"}],
    "Metadata": "[ONNX Layer: /fc/Gemm]",
}


def test_what_runs_is_read_back_from_the_inspector() -> None:
    graphs = {"main": {"products": {"/conv1/Conv": [900, "int8"], "/fc/Gemm": [100, "fp16"]}}}
    seen = precision.effective({"main": [CONV8, GEMM10, FUSED10]}, graphs, "int8", typed=True)
    assert (seen["effective"], seen["share"], seen["macs_in"]) == ("int8", 0.9, {"int8": 900, "fp16": 100})
    assert seen["elsewhere"] == [{"layer": "/fc/Gemm", "precision": "fp16", "share": 0.1}]


def test_a_product_that_no_layer_names_counts_as_declared_only_where_types_bind_and_int8_never_does() -> None:
    graphs = {"main": {"products": {"a": [10, "fp16"], "b": [10, "int8"]}}}
    assert precision.effective({"main": []}, graphs, "fp16", typed=True)["macs_in"] == {"fp16": 10, "unknown": 10}
    weakly = precision.effective({"main": ["a name alone"]}, graphs, "fp16", typed=False)
    assert (weakly["macs_in"], weakly["share"]) == ({"unknown": 20}, None)


def test_a_builder_that_dies_is_told_by_signal_and_leaves_nothing(tmp_path: Path) -> None:
    def die() -> None:
        with files.new_directory(tmp_path / "plans") as work:
            (work / "half").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(Refused, match="the builder died of SIGKILL") as raised:
        building.in_child(die, "the builder")
    assert raised.value.code == 4
    files.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_builder_that_is_silent_for_long_is_said_to_be_at_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(building, "HEARTBEAT_S", 0.05)
    building.in_child(lambda: time.sleep(0.3), "the builder")
    assert "the builder is still at work after 0 s" in capsys.readouterr().out


def test_what_was_built_before_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    with files.new_directory(tmp_path / "plans") as work:
        (work / "main.plan").write_text("old")

    def fail() -> None:
        with files.new_directory(tmp_path / "plans") as work:
            (work / "main.plan").write_text("new")
            raise Refused(4, "no")

    with pytest.raises(Refused):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["plans"]
    assert (tmp_path / "plans" / "main.plan").read_text() == "old"
