"""Targets as users name them."""

from __future__ import annotations

import pytest

from edgeattn.capabilities import resolve, targets
from edgeattn.errors import UnknownName, UsageError
from edgeattn.target import parse


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("tensorrt:8.5", "TensorRT 8.5"),
        ("tensorrt:10.3.0", "TensorRT 10.3"),
        ("tensorrt", "TensorRT 11.5"),
        ("jetson:jp5.1", "TensorRT 8.5"),
        ("jetson:jp6.2", "TensorRT 10.3"),
        ("jetson:jp7.2", "TensorRT 10.16"),
        ("tensorrt-rtx:sm89,sm120", "TensorRT for RTX 1.7"),
        ("tensorrt_rtx:1.5,sm86", "TensorRT for RTX 1.5"),
        ("openvino:npu", "OpenVINO NPU"),
        ("openvino:GPU.1", "OpenVINO GPU.1"),
        ("openvino:npu.3720", "OpenVINO NPU.3720"),
        ("openvino:auto", "OpenVINO AUTO"),
        ("openvino:hetero:npu, CPU", "OpenVINO HETERO:NPU,CPU"),
    ],
)
def test_a_name_means_a_version(name: str, title: str) -> None:
    assert resolve(name).engine.title == title


def test_compute_capabilities_are_kept() -> None:
    assert resolve("tensorrt-rtx:sm89,sm120").capabilities == ("sm89", "sm120")


@pytest.mark.parametrize(
    "name", ["tensorrt:7.2", "jetson:jp4", "onnxruntime:gpu", "tensorrt-rtx:sm90", "tensorrt:8.5,8.6"]
)
def test_what_is_no_version_is_told_those_that_are(name: str) -> None:
    with pytest.raises(UsageError, match="known: "):
        resolve(name)


@pytest.mark.parametrize("device", ["vpu", "multi", "multi:gpu,cpu", "myriad", "hetero", "gpu,cpu", "tpu"])
def test_a_name_that_is_no_device_is_told_as_compile_tells_it(device: str) -> None:
    with pytest.raises(UsageError) as compiling:
        parse(f"openvino:{device}")
    with pytest.raises(UsageError) as asked:
        resolve(f"openvino:{device}")
    assert str(asked.value) == str(compiling.value)


def test_what_is_not_known_of_a_target_is_told() -> None:
    assert resolve("tensorrt-rtx:sm89").engine.unknown == ()
    assert "its parser's documents were read" in resolve("jetson:jp6.2").engine.unknown[0]
    plugin, cpu, where, hetero = resolve("openvino:hetero:npu,gpu.1,cpu").engine.unknown
    assert plugin.startswith("whether NPU or GPU.1 takes every operator")
    assert "the CPU computes in bf16" in cpu
    assert "which layer runs where" in where
    assert "says no" in hetero


def test_an_unknown_engine_is_told_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'tensorrt'"):
        resolve("tensorr")


def test_every_name_that_is_listed_resolves() -> None:
    for family, names in targets().items():
        for name in names:
            assert resolve(f"{family}:{name}").engine.operators.value
