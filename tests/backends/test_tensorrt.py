"""TensorRT proper: what can be known of it where it is not installed and no GPU is."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from edgeattn import backends
from edgeattn.backends import Options, _nvidia
from edgeattn.backends._common import precision_summary
from edgeattn.backends._tensorrt_layers import completed, executed, inspected, products
from edgeattn.backends._tensorrt_settings import Settings
from edgeattn.backends._tensorrt_versions import FLAGS, flag, of, without_dla
from edgeattn.backends.tensorrt import BACKEND
from edgeattn.errors import IntegrityError, MissingPackage, Unsupported, UsageError
from edgeattn.graphs import macs_by_node
from edgeattn.program import Program
from tests.conftest import edgeattn
from tests.graphs import conv_net

absent = pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed here")


@absent
def test_where_it_is_missing_the_command_says_how_to_get_it(tmp_path: Path) -> None:
    onnx.save(conv_net(), tmp_path / "m.onnx")
    done = edgeattn("compile", tmp_path / "m.onnx", "-o", tmp_path / "b", "-t", "tensorrt:10.3")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].endswith("pip install 'edgeattn[tensorrt]'")
    assert not (tmp_path / "b").exists()
    with pytest.raises(MissingPackage):
        BACKEND.library()


@pytest.mark.skipif(bool(_nvidia.capabilities()), reason="this machine has an NVIDIA GPU")
def test_it_builds_only_beside_a_gpu_and_says_where_else() -> None:
    (refusal,) = BACKEND.unsupported(Program({"main": conv_net()}), Options("gpu"))
    assert refusal.reason == "it measures kernels while it builds, and this machine has no NVIDIA GPU"
    assert "tensorrt-rtx" in refusal.hint


def test_a_float_graph_is_not_built_as_a_half_one_by_asking() -> None:
    refusals = BACKEND.unsupported(Program({"main": conv_net()}), Options("gpu", "fp16"))
    assert any("nothing in this graph is fp16" in r.reason and "--scheme fp16" in r.hint for r in refusals)


@pytest.mark.parametrize(
    ("version", "network", "needs"),
    [
        ("8.6.2", ("EXPLICIT_BATCH",), ("INT8", "FP16")),
        ("10.3.0", ("STRONGLY_TYPED",), ()),
        ("11.4.1", ("STRONGLY_TYPED",), ()),
    ],
)
def test_the_table_says_how_a_version_is_told_about_precision(
    version: str, network: tuple[str, ...], needs: tuple[str, ...]
) -> None:
    row = of(version)
    assert (row.network, row.precision.get("int8", ())) == (network, needs)


def test_a_dla_is_known_by_version_precision_and_fixed_sizes() -> None:
    assert (of("10.3.0", dla=True).network, of("10.3.0", dla=True).precision) == ((), {"fp16": ("FP16",)})
    assert of("11.4.1", dla=True) == of("11.4.1")
    assert of("8.6.2", dla=True).network == ("EXPLICIT_BATCH",)
    assert [without_dla(version, "fp16") == "" for version in ("8.6.2", "10.7.0", "10.16.2", "11.3.0", "11.4.1")] == [
        True, True, False, False, True,
    ]  # fmt: skip
    assert "computes in fp16 and int8, not in fp32" in without_dla("10.3.0", "fp32")
    assert "takes no Q/DQ before TensorRT 11" in without_dla("10.3.0", "int8")
    refusals = BACKEND.unsupported(Program({"main": conv_net()}), Options("dla0", "fp16"))
    assert any("a DLA takes fixed sizes, and 'batch' is dynamic" in r.reason for r in refusals)


def test_a_version_older_than_the_table_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"TensorRT 8.4.1 is too old"):
        of("8.4.1")


def test_a_flag_that_a_version_lacks_names_the_release_that_brought_it() -> None:
    old = SimpleNamespace(__version__="8.6.1", BuilderFlag=SimpleNamespace(VERSION_COMPATIBLE=1))
    assert flag(old, "VERSION_COMPATIBLE", "TensorRT") == 1
    with pytest.raises(Unsupported, match=r"TensorRT 8.6.1 has no flag STRIP_PLAN; it came with TensorRT 10.0"):
        flag(old, "STRIP_PLAN", "TensorRT")


@pytest.mark.tensorrt_rtx
def test_every_flag_of_the_table_is_one_of_the_packages_own() -> None:
    import tensorrt_rtx

    assert set(FLAGS) <= set(tensorrt_rtx.BuilderFlag.__members__)


class Config:
    """A builder's configuration that notes what is set on it."""

    def __init__(self) -> None:
        self.flags: list[str] = []
        self.cache = b""

    def set_flag(self, name: str) -> None:
        self.flags.append(name)

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return not ignore_mismatch


def test_a_pinned_timing_cache_is_read_never_written_and_must_have_its_hash(tmp_path: Path) -> None:
    package = SimpleNamespace(BuilderFlag=SimpleNamespace(**{name: name for name in FLAGS}), __version__="10.16")
    cache = tmp_path / "orin.cache"
    cache.write_bytes(b"measured kernels")
    pinned = {"timing_cache": str(cache), "timing_cache_sha256": hashlib.sha256(b"measured kernels").hexdigest()}
    config = Config()
    assert Settings.of(Options(settings={**pinned, "strict_cache": True, "strip": True})).apply(
        package, config, "TensorRT"
    )
    assert (config.cache, config.flags) == (
        b"measured kernels",
        ["STRIP_PLAN", "REFIT_IDENTICAL", "ERROR_ON_TIMING_CACHE_MISS"],
    )
    cache.write_bytes(b"other kernels")
    with pytest.raises(IntegrityError, match=r"has sha256 .* not the one asked for"):
        Settings.of(Options(settings=pinned)).apply(package, Config(), "TensorRT")
    cache.unlink()
    with pytest.raises(UsageError, match="no such file"):
        Settings.of(Options(settings={"timing_cache": str(cache), "strict_cache": True})).apply(
            package, Config(), "TensorRT"
        )


INSPECTED = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv1 + relu1",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "image", "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "r", "Format/Datatype": "Four wide channel vectorized row major Int8 format"}],
            "TacticName": "",
            "Metadata": "",
        },
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "r", "Format/Datatype": "Four wide channel vectorized row major Int8 format"}],
            "Outputs": [{"Name": "r1", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            "TacticName": "sm80_xmma_fprop",
            "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
        },
        {
            "Name": "conv2",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "r1", "Datatype": "Half", "Format": "Channel major"}],
            "Outputs": [{"Name": "c2", "Datatype": "Half"}],
            "TacticName": "sm80_xmma_fprop_half",
            "Metadata": "[ONNX Layer: conv2]",
        },
    ]
}


def test_what_the_inspector_tells_is_read_in_both_spellings() -> None:
    net = conv_net()
    layers = inspected(json.dumps(INSPECTED), net)
    assert [(n.role, n.precision, n.stands_for) for n in layers] == [
        ("layout", "fp32", ()),
        ("product", "int8", ("conv1", "relu1")),
        ("product", "fp16", ("conv2",)),
    ]
    assert products(layers, net) == [("conv1", "int8"), ("conv2", "fp16")]


def test_fused_work_is_no_second_product_of_a_node_that_another_layer_does() -> None:
    line = (
        "Name: {0}, LayerType: {1}, Inputs: [ {{ Name: image, Dimensions: [-1,3], Datatype: {2}, Format: x }}], "
        "Constants: [], Outputs: [], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: conv1]"
    )
    lines = [line.format("quantize", "kgen", "Float"), line.format("conv", "correlation", "Int8")]
    assert products(executed(lines, conv_net()), conv_net()) == [("conv1", "int8")]
    assert products(executed(lines[:1], conv_net()), conv_net()) == [("conv1", "fp32")]
    assert executed(["something else entirely"], conv_net()) == []


def test_a_product_that_no_layer_names_does_not_pass_for_what_the_others_run_in() -> None:
    """The builder names none after some recurrences; around them all is INT8 (measured on a bidirectional GRU)."""
    net = conv_net()
    told = completed([("conv1", "int8")], net)
    assert told == [("conv1", "int8"), ("conv2", "fp32")]
    assert set(precision_summary(told, macs_by_node(net))["macs_in"]) == {"int8", "fp32"}
    assert set(precision_summary(told[:1], macs_by_node(net))["macs_in"]) == {"int8"}


def test_nothing_lets_a_plan_run_code_on_the_host() -> None:
    """``engine_host_code_allowed`` is False unless somebody sets it, and no file here sets it to anything else."""
    package = Path(backends.__file__).parent.parent
    named, forbidden = [], 0
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "engine_host_code_allowed":
                named.append(f"{file.name}:{node.lineno}")
            if isinstance(node, ast.Assign) and ast.unparse(node).endswith("engine_host_code_allowed = False"):
                forbidden += 1
    assert len(named) == forbidden, named
