from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeattn import backends
from edgeattn.downgrade import to_opset_17
from edgeattn.errors import Unsupported
from edgeattn.program import Program
from tests.graphs import model

X = np.random.default_rng(0).standard_normal((2, 6, 4)).astype(np.float32)


def same(graph: onnx.ModelProto) -> None:
    lower = to_opset_17(graph)
    assert lower.opset_import[0].version == 17
    onnx.checker.check_model(lower, full_check=True)
    before, after = (backends.oracle(Program({"main": g}))["main"].run({"x": X}) for g in (graph, lower))
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


@pytest.mark.onnxruntime
@pytest.mark.parametrize("kind", ["Mean", "Max", "Min", "L2", "SumSquare", "LogSumExp"])
def test_axes_become_an_attribute(kind: str) -> None:
    node = helper.make_node(f"Reduce{kind}", ["x", "axes"], ["y"], keepdims=0)
    same(model([node], {"x": ["batch", 6, 4]}, {"y": ["batch", 4]}, {"axes": np.array([1])}))


@pytest.mark.onnxruntime
def test_an_even_split_loses_its_count() -> None:
    node = helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2)
    same(model([node], {"x": ["batch", 6, 4]}, {"a": ["batch", 3, 4], "b": ["batch", 3, 4]}))


def test_an_uneven_split_and_a_computed_axis_are_refused() -> None:
    uneven = helper.make_node("Split", ["x"], ["a", "b", "c", "d"], axis=1, num_outputs=4, name="uneven")
    outputs = dict.fromkeys("abcd")
    with pytest.raises(Unsupported, match="uneven: Split has no form in opset 17 that computes this; use --opset 18"):
        to_opset_17(model([uneven], {"x": ["batch", 6, 4]}, outputs))
    new = helper.make_node("BitwiseNot", ["x"], ["y"], name="new")
    with pytest.raises(Unsupported, match="new: BitwiseNot"):
        to_opset_17(model([new], {"x": ["batch", 6, 4]}, {"y": None}))


def test_the_original_is_not_edited() -> None:
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"])
    graph = model([node], {"x": ["batch", 6, 4]}, {"y": ["batch", 1, 4]}, {"axes": np.array([1])})
    before = graph.SerializeToString()
    to_opset_17(graph)
    assert graph.SerializeToString() == before
