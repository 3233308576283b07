"""FP16 and BF16 seen on a CPU without such arithmetic: every operator's result is rounded."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeattn import backends, rounding
from edgeattn.errors import Unsupported
from edgeattn.program import Program
from tests.graphs import conv_net

pytestmark = pytest.mark.onnxruntime
KINDS = [TensorProto.FLOAT16, TensorProto.BFLOAT16]


def doubled_and_halved(kind: int, border: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """x -> (x + x) · 0.5 in a low type; the border is float32 or that type."""
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=kind),
        helper.make_node("Add", ["narrow", "narrow"], ["twice"]),
        helper.make_node("Mul", ["twice", "half"], ["once"]),
        helper.make_node("Cast", ["once"], ["y"], to=border),
    ]
    value = helper.make_tensor_value_info
    inputs, outputs = [value("x", border, ["n"])], [value("y", border, ["n"])]
    graph = helper.make_graph(nodes, "main", inputs, outputs, [helper.make_tensor("half", kind, [], [0.5])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_sum_beyond_fp16_is_infinite_and_a_digit_too_many_is_lost():
    run = backends.rounded(Program({"main": doubled_and_halved(TensorProto.FLOAT16)}))["main"].run
    found = run({"x": np.array([40000, 30000, 1 + 2**-12, 1e-8], np.float32)})["y"]
    assert found.tolist() == [np.inf, 30000, 1, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_computes_what_the_standards_own_evaluator_does(kind):
    from onnx.reference import ReferenceEvaluator

    model = doubled_and_halved(kind)
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
    assert np.array_equal(backends.rounded(Program({"main": model}))["main"].run({"x": x})["y"], wanted)


def test_inputs_and_outputs_of_the_low_type_stay_so():
    run = backends.rounded(Program({"main": doubled_and_halved(TensorProto.FLOAT16, TensorProto.FLOAT16)}))["main"].run
    found = run({"x": np.array([40000, 2], np.float16)})["y"]
    assert found.dtype == np.float16
    assert found.tolist() == [np.inf, 2]


def test_a_float32_graph_is_left_alone():
    model = conv_net()
    assert rounding.types_in(model) == set()
    assert rounding.visible(model) is model


def test_a_typed_body_is_refused_not_computed_wrongly():
    model = doubled_and_halved(TensorProto.FLOAT16)
    branch = helper.make_graph(
        [helper.make_node("Cast", ["y"], ["z"], to=TensorProto.FLOAT16)],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT16, ["n"])],
    )
    model.graph.node.append(
        helper.make_node("If", ["yes"], ["out"], name="choice", then_branch=branch, else_branch=branch)
    )
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    with pytest.raises(Unsupported, match="node 'choice': the body of a If computes in FP16 or BF16"):
        rounding.visible(model)
