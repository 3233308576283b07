"""Strides moved up: the same numbers from fewer positions, and only where everyone who reads a map agrees."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeattn import backends, registry
from edgeattn.backends import Options
from edgeattn.graphs import attributes
from edgeattn.program import Case, Program, StageRecord
from edgeattn.quantize import Settings, quantize
from edgeattn.strides import thin

RNG = np.random.default_rng(3)
SHAPES = {"w3": (32, 32, 3, 3), "w1": (32, 32, 1, 1), "w1b": (48, 32, 1, 1), "gate": (1, 32, 1, 1)}
SHAPES |= {"w7": (1, 2, 7, 7), "one": (1, 32, 3, 3)}
AXES = {"axis": [1], "high": [2], "wide": [3]}
DOWN = {"strides": [2, 2]}


def n(op: str, inputs: str, output: str, **given: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], output, **given)


BLOCK = [
    n("Conv", "image w1", "x"),
    n("Conv", "x w3", "c2", pads=[1] * 4),
    n("Relu", "c2", "r2"),
    n("Conv", "r2 w1", "c3"),
    n("Mul", "c3 gate", "g3"),
    n("Add", "g3 x", "sum"),
    n("Relu", "sum", "r3"),
]
NEXT = [n("Conv", "r3 w1b", "left", **DOWN), n("Conv", "r3 w1b", "right", **DOWN), n("Add", "left right", "y")]


def net(nodes: list[onnx.NodeProto], size: int | str = 15, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    """An odd size: 15 positions thinned are 8."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 32, size, size))
    written = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in outputs]
    read = {name for node in nodes for name in node.input}
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(0, np.prod(shape[1:]) ** -0.5, shape).astype(np.float32), name)
        for name, shape in SHAPES.items()
        if name in read
    ]
    weights += [numpy_helper.from_array(np.array(axes, np.int64), name) for name, axes in AXES.items() if name in read]
    graph = helper.make_graph(nodes, "net", [image], written, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def program(model: onnx.ModelProto) -> Program:
    return Program({"main": model}, history=(StageRecord("test", 0.0),))


def image(size: int = 15) -> np.ndarray:
    return RNG.standard_normal((1, 32, size, size)).astype(np.float32)


def strides(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Output -> stride, of convolutions and thinning pools that have one."""
    found = {node.output[0]: list(attributes(node).get("strides", [1])) for node in model.graph.node}
    return {name: stride for name, stride in found.items() if set(stride) != {1}}


CASES = {
    "a stage's end": ([*BLOCK, *NEXT], {"c2": [2, 2], "x/thinned_2_2": [2, 2]}),
    "a map that another reads whole": (
        [*BLOCK, n("Conv", "r3 w1", "left", **DOWN), n("Conv", "r3 w3", "right", pads=[1] * 4, **DOWN), NEXT[2]],
        {"r3/thinned_2_2": [2, 2], "right": [2, 2]},
    ),
    "two strides, one behind the other": (
        [n("Conv", "image w3", "a", pads=[1] * 4, **DOWN), n("Conv", "a w1", "b", **DOWN), n("Relu", "b", "y")],
        {"a": [4, 4]},
    ),
    "readers that disagree": (
        [
            n("Conv", "image w3", "a", pads=[1] * 4),
            n("Conv", "a w1", "b", **DOWN),
            n("Conv", "a w1", "c", strides=[4, 4]),
            n("MaxPool", "c", "m", kernel_shape=[1, 1]),
            n("GlobalAveragePool", "m", "p"),
            n("Mul", "b p", "y"),
        ],
        {"a/thinned_2_2": [2, 2], "a/thinned_4_4": [4, 4]},
    ),
    "a kernel padded by the size of its map": (
        [n("Conv", "image w3", "a", auto_pad="SAME_UPPER"), n("Conv", "a w1", "y", **DOWN)],
        {"a/thinned_2_2": [2, 2]},
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [15, 16])
def test_a_thinned_graph_computes_the_same_numbers(case: str, size: int) -> None:
    nodes, wanted = CASES[case]
    model = net(nodes, size)
    thinner, _ = thin(model)
    onnx.checker.check_model(thinner, full_check=True)
    assert strides(thinner) == wanted
    feeds = {"image": image(size)}
    whole, part = (backends.oracle(program(m))["main"].run(feeds)["y"] for m in (model, thinner))
    # The same products: only the order of their sums may differ, by the kernel that a stride is computed with.
    np.testing.assert_allclose(part, whole, atol=1e-5, rtol=1e-5)
    assert np.ptp(whole) > 0.1, "a value that does not vary shows nothing"


def test_a_map_that_is_an_output_is_computed_whole() -> None:
    thinner, names = thin(net([*BLOCK, *NEXT], outputs=("y", "r3")))
    assert names == ("r3/thinned_2_2",)
    assert strides(thinner) == {"r3/thinned_2_2": [2, 2]}


def test_a_sum_of_unknown_sizes_is_thinned_behind() -> None:
    """One side may be a row that is broadcast: thinned, it would be another one."""
    model = net([n("Add", "image row", "s"), n("Conv", "s w1", "y", **DOWN)], "side")
    model.graph.input.append(helper.make_tensor_value_info("row", TensorProto.FLOAT, (1, 32, "high", "wide")))
    assert thin(model)[1] == ("s/thinned_2_2",)


def test_a_sum_of_sizes_that_inference_cannot_tell_is_thinned_behind() -> None:
    """Two unknown sizes are no equal sizes: one side may be a single row."""
    sides = [n("Conv", "image w3", "a", pads=[1] * 4), n("Conv", "row w1", "b"), n("Add", "a b", "s")]
    model = net([*sides, n("Conv", "s w1", "y", **DOWN)], "side")
    model.graph.input.append(helper.make_tensor_value_info("row", TensorProto.FLOAT, (1, 32, "high", "wide")))
    assert thin(model)[1] == ("s/thinned_2_2",)


FEATURES = [n("Conv", "image w3", "f", pads=[1] * 4)]
SCALED = [n("Conv", "p w1", "e"), n("Sigmoid", "e", "s"), n("Mul", "f s", "g")]
GATES = {
    "SE": [n("GlobalAveragePool", "f", "p"), *SCALED],
    "CBAM": [
        n("GlobalMaxPool", "f", "p"),
        *SCALED[:2],
        n("Mul", "f s", "h"),
        n("ReduceMax", "h axis", "peak"),
        n("ReduceMean", "h axis", "mean"),
        n("Concat", "peak mean", "planes", axis=1),
        n("Conv", "planes w7", "t", pads=[3] * 4),
        n("Sigmoid", "t", "u"),
        n("Mul", "h u", "g"),
    ],
    "BAM": [
        n("GlobalAveragePool", "f", "p"),
        n("Conv", "p w1", "channel"),
        n("Conv", "f one", "spatial", pads=[4] * 4, dilations=[4, 4]),
        n("Add", "channel spatial", "e"),
        n("Sigmoid", "e", "s"),
        n("Mul", "f s", "weighed"),
        n("Add", "f weighed", "g"),
    ],
    "coordinate": [
        n("ReduceMean", "f wide", "lines"),
        n("ReduceMean", "f high", "columns"),
        n("Sigmoid", "lines", "a"),
        n("Sigmoid", "columns", "b"),
        n("Mul", "f a", "h"),
        n("Mul", "h b", "g"),
    ],
}


@pytest.mark.parametrize("past_gates", [True, False])
@pytest.mark.parametrize("gate", GATES)
def test_what_a_gate_pools_is_computed_whole(gate: str, past_gates: bool) -> None:
    model = net([*FEATURES, *GATES[gate], n("Relu", "g", "r"), n("Conv", "r w1", "y", **DOWN)])
    thinner, names = thin(model, past_gates=past_gates)
    assert names, "nothing was thinned"
    assert "f" not in strides(thinner), "a pool would read a part of the map"
    if not past_gates:
        assert names == (("f/thinned_2_2", "weighed/thinned_2_2") if gate == "BAM" else ("g/thinned_2_2",))
    feeds = {"image": image()}
    whole, part = (backends.oracle(program(m))["main"].run(feeds)["y"] for m in (model, thinner))
    # As above: the same products, summed in the order of another kernel.
    np.testing.assert_allclose(part, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "nodes",
    [BLOCK, [n("Conv", "image w3", "y", pads=[1] * 4, **DOWN)], [n("Conv", "image w1", "y", pads=[1] * 4, **DOWN)]],
    ids=["no stride", "a wide kernel", "a padded one"],
)
def test_a_graph_in_which_no_stride_can_move_is_given_back(nodes: list[onnx.NodeProto]) -> None:
    model = net(nodes, outputs=(nodes[-1].output[0],))
    assert thin(model) == (model, ())


def test_strided_pointwise_convolutions_run_in_int8_on_openvino() -> None:
    """Where its stride stays, the engine computes such a convolution in float; the pool's scale is the map's own."""
    backend = registry.get("backends", "openvino")
    data = [Case("c", {"image": image()}) for _ in range(4)]
    made = quantize(program(net([*BLOCK, *NEXT])), "int8-static", backends.oracle, data, Settings(qdq=backend.qdq))
    assert made.history[-1].notes["maps_thinned"] == ["x/thinned_2_2"]
    ran = backend.profile(made.graphs["main"], Options("cpu", "int8", 1))
    convolutions = {row.node: row.precision for row in ran if row.op == "Convolution"}
    assert set(convolutions.values()) == {"int8"}
    assert set(convolutions) == {"x", "c2", "c3", "left"}, "the engine computes two equal convolutions once"
