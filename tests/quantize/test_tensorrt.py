"""TensorRT's parser takes the INT8 graphs of every trained member, as they are: ``pytest -m tensorrt``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.benchmarks.tensorrt_parse import members, parse, write

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.torch,
    pytest.mark.onnxruntime,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None,
        reason="needs TensorRT for RTX: pip install tensorrt_rtx_cu13",
    ),
]


@pytest.mark.parametrize("member", members())
def test_every_graph_is_parsed_whole(member: str, tmp_path: Path) -> None:
    assert {file: refused for file, refused in parse(write(member, tmp_path)).items() if refused} == {}


def test_an_int32_bias_is_refused_so_the_check_can_fail(tmp_path: Path) -> None:
    import numpy as np
    import onnx
    from onnx import helper

    from tests.graphs import model

    nodes = [
        helper.make_node("DequantizeLinear", ["b", "scale"], ["bias"], name="bias_dq", axis=0),
        helper.make_node("Conv", ["x", "w", "bias"], ["y"], name="conv"),
    ]
    weights = {"w": np.ones((16, 3, 1, 1), np.float32), "b": np.ones(16, np.int32), "scale": np.ones(16, np.float32)}
    onnx.save(model(nodes, {"x": [1, 3, 4, 4]}, {"y": [1, 16, 4, 4]}, weights), tmp_path / "m.onnx")
    assert parse([tmp_path / "m.onnx"])["m.onnx"]
