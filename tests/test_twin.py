"""The float program behind a quantized one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import checker, helper, numpy_helper

from edgeattn import backends, registry
from edgeattn.backends import Options
from edgeattn.errors import Unsupported
from edgeattn.program import Case, Program, QdqDialect, StageRecord
from edgeattn.quantize import Settings, quantize
from edgeattn.twin import floating, quantizes
from tests.graphs import conv_net, model

pytestmark = pytest.mark.onnxruntime
IMAGE = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)


def quantized(dialect: QdqDialect) -> Program:
    program = Program({"main": conv_net(32)}, history=(StageRecord("test", 0.0),))
    return quantize(program, "int8-static", backends.oracle, iter([Case("c", {"image": IMAGE})]), Settings(qdq=dialect))


@pytest.mark.parametrize("dialect", [QdqDialect(), QdqDialect(unsigned=True, requantize_conv_outputs=True)])
def test_stripping_the_pairs_gives_back_the_graph_with_its_weights_rounded(dialect: QdqDialect) -> None:
    before = quantized(dialect).graphs["main"]
    digest = before.SerializeToString(deterministic=True)
    twin = floating(before)
    checker.check_model(twin, full_check=True)
    assert before.SerializeToString(deterministic=True) == digest
    assert quantizes(before)
    assert not quantizes(twin)
    original = conv_net(32)
    assert [n.op_type for n in twin.graph.node] == [n.op_type for n in original.graph.node]
    stored = {t.name: numpy_helper.to_array(t) for t in twin.graph.initializer}
    for weight in (numpy_helper.to_array(t) for t in original.graph.initializer if len(t.dims) == 4):
        (restored,) = (array for array in stored.values() if array.shape == weight.shape)
        # Half a level of each output channel's own scale, max |w| / 127, and its rounding in float32.
        level = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / 127
        assert (np.abs(restored - weight) <= 0.5001 * level).all()


@pytest.mark.parametrize("least", [np.uint8(0), np.int8(-128)])
def test_what_a_quantizers_lower_end_cut_off_becomes_a_relu_again(least: np.integer[Any]) -> None:
    weight = np.array([[1.0, -1.0]], np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["sum"], name="product"),
        helper.make_node("QuantizeLinear", ["sum", "scale", "zero"], ["q"], name="cut"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="back"),
    ]
    constants = {"w": weight, "scale": np.float32(0.5), "zero": least}
    twin = floating(model(nodes, {"x": [1, 1]}, {"y": [1, 2]}, constants))
    got = registry.get("backends", "onnxruntime").load(twin, Options()).run({"x": np.array([[3.0]], np.float32)})
    assert got["y"].tolist() == [[3.0, 0.0]]


def test_integer_arithmetic_in_the_graph_is_refused_and_says_what_to_give_instead() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="dynamic"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="back"),
    ]
    with pytest.raises(Unsupported, match=r"node 'dynamic': computes with integers .*--against FLOAT.onnx"):
        floating(model(nodes, {"x": [2, 2]}, {"y": [2, 2]}))


def test_weights_in_blocks_are_unpacked() -> None:
    values, scales = np.arange(8, dtype=np.int8).reshape(4, 2), np.array([[1, 2], [3, 4]], np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["float"], name="unpack", axis=0, block_size=2),
        helper.make_node("MatMul", ["x", "float"], ["y"], name="product"),
    ]
    twin = floating(model(nodes, {"x": [1, 4]}, {"y": [1, 2]}, {"w": values, "s": scales}, opset=21))
    (stored,) = (numpy_helper.to_array(t) for t in twin.graph.initializer)
    assert stored.tolist() == (values * np.repeat(scales, 2, axis=0)).tolist()
