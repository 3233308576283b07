from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from edgeattn import backends, graphs
from edgeattn.program import Case, Program, StageRecord, Stop, Wiring
from edgeattn.quantize import quantize
from tests.graphs import conv_net, counter, model


def test_reads_inputs_and_outputs_with_their_dynamic_dimensions() -> None:
    assert [str(s) for s in graphs.input_specs(conv_net())] == ["image: float32[batch, 3, 8, 8]"]
    assert [str(s) for s in graphs.output_specs(conv_net())] == ["features: float32[batch, 16]"]


def test_counts_parameters_and_multiply_accumulates() -> None:
    assert graphs.parameters(conv_net()) == 16 * 27 + 16 + 16 * 144 + 16
    assert graphs.multiply_accumulates(conv_net()) == 64 * (16 * 27 + 16 * 144)


def test_a_recurrent_layer_counts_both_its_weights_at_every_position() -> None:
    weights = {"w": np.ones((2, 12, 5), np.float32), "r": np.ones((2, 12, 4), np.float32)}
    node = helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=4, direction="bidirectional")
    recurrent = model([node], {"x": ["length", "batch", 5]}, {"y": None}, weights)
    assert graphs.multiply_accumulates(recurrent, {"length": 7, "batch": 3}) == 7 * 3 * 2 * 12 * (5 + 4)


def test_a_constant_behind_identities_is_a_constant_and_a_ring_of_them_ends() -> None:
    nodes = [
        helper.make_node("Identity", ["w"], ["a"]),
        helper.make_node("Identity", ["a"], ["b"]),
        helper.make_node("Identity", ["d"], ["c"]),
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Add", ["x", "b"], ["y"]),
    ]
    index = graphs.GraphIndex(model(nodes, {"x": [2]}, {"y": [2]}, {"w": np.ones(2, np.float32)}))
    assert index.is_constant("b")
    assert index.constant_shape("b") == (2,)
    assert index.constant("b") is not None
    assert not index.is_constant("c")
    assert not index.is_constant("x")


def test_a_program_asks_only_for_what_no_wire_feeds() -> None:
    models, wiring = counter()
    program = Program(models, Wiring(wiring["feeds"], wiring["state"], Stop(**wiring["stop"])))
    assert [s.name for s in graphs.program_inputs(program)] == ["begin"]


def test_tapping_adds_outputs_and_leaves_the_original_alone() -> None:
    model = conv_net()
    before = model.SerializeToString()
    tapped = graphs.with_outputs(model, ["r1", "features"])
    assert [v.name for v in tapped.graph.output] == ["features", "r1"]
    assert model.SerializeToString() == before


@pytest.mark.onnxruntime
def test_quantization_changes_no_count() -> None:
    data = [Case("c", {"image": np.ones((1, 3, 8, 8), np.float32)})]
    program = Program({"main": conv_net()}, history=(StageRecord("test", 0.0),))
    quantized = quantize(program, "int8-static", backends.oracle, iter(data)).graphs["main"]
    assert graphs.parameters(quantized) == graphs.parameters(conv_net())
    assert graphs.multiply_accumulates(quantized) == graphs.multiply_accumulates(conv_net())
