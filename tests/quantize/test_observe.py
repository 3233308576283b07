from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from onnx import helper

from edgeattn import backends
from edgeattn.errors import BadInput
from edgeattn.program import Case, Program
from edgeattn.quantize import Settings, quantize
from edgeattn.quantize._observe import calibrate
from edgeattn.quantize._ranges import METHODS
from tests.graphs import model

pytestmark = pytest.mark.onnxruntime
RNG = np.random.default_rng(0)


def net() -> Program:
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], name="stem", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Sigmoid", ["r"], ["s"], name="gate"),
        helper.make_node("Conv", ["s", "v"], ["y"], name="head"),
    ]
    rng = np.random.default_rng(2)
    weights = {"w": rng.standard_normal((32, 3, 3, 3)) * 0.1, "v": rng.standard_normal((32, 32, 1, 1)) * 0.1}
    typed = {name: value.astype(np.float32) for name, value in weights.items()}
    return Program({"main": model(nodes, {"image": ["b", 3, 40, 40]}, {"y": ["b", 32, 40, 40]}, typed)})


def batches(count: int, size: int = 2) -> Iterator[Case]:
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield Case("c", {"image": rng.standard_normal((size, 3, 40, 40)).astype(np.float32)})


WANTED = {"main": {"image": 127, "c": 127, "r": 255, "s": 255}}


@pytest.mark.parametrize("opener", [backends.oracle, pytest.param(backends.calibrator, marks=pytest.mark.openvino)])
def test_the_largest_magnitudes_are_those_of_the_tensors(opener) -> None:
    found = calibrate(net(), WANTED, opener, batches(4))
    program = net()
    program.graphs["main"].graph.output.append(helper.make_tensor_value_info("c", 1, None))
    session = backends.oracle(program)["main"]
    convolved = [session.run(case.feeds)["c"] for case in batches(4)]
    # two engines add 27 products in different orders: some units in the last place
    assert found.peaks["main"]["c"] == pytest.approx(max(np.abs(c).max() for c in convolved), rel=1e-5)
    assert found.peaks["main"]["r"] == pytest.approx(max(c.max() for c in convolved), rel=1e-5)
    assert found.peaks["main"]["image"] == max(np.abs(c.feeds["image"]).max() for c in batches(4))
    assert found.samples == 8


def test_a_gate_needs_no_data_to_be_known() -> None:
    assert calibrate(net(), WANTED, backends.oracle, batches(1)).peaks["main"]["s"] == 1.0


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"minmax"}))
def test_a_part_of_a_large_tensor_stands_for_all_of_it(method: str) -> None:
    whole = calibrate(net(), WANTED, backends.oracle, batches(16), method).peaks["main"]
    limit = calibrate(net(), WANTED, backends.oracle, batches(16)).peaks["main"]
    assert 0.3 * limit["r"] < whole["r"] <= limit["r"]  # of Gaussian values even entropy clips no more


def test_says_how_far_the_ranges_had_settled() -> None:
    def growing() -> Iterator[Case]:
        for number, case in enumerate(batches(16, 1)):
            yield Case("c", {"image": case.feeds["image"] * (3 if number >= 12 else 1)})

    settled = calibrate(net(), WANTED, backends.oracle, batches(32, 1)).notes
    assert settled["settled_from"] == 16
    assert settled["most"] < 1.5
    grown = calibrate(net(), WANTED, backends.oracle, growing()).notes
    assert (grown["settled_from"], grown["grew"]) == (8, 1.0)
    assert 2 < grown["most"] < 4


def test_a_value_that_no_sample_computes_stays_in_float_with_the_reason() -> None:
    """A mask picks no row of any sample: the layer behind runs on nothing."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="always"),
        helper.make_node("Compress", ["h", "pick"], ["some"], name="pick_rows", axis=0),
        helper.make_node("Gemm", ["some", "v"], ["y"], name="never"),
    ]
    weights = {name: RNG.standard_normal((32, 32)).astype(np.float32) for name in ("w", "v")}
    graph = model(nodes, {"x": ["b", 32]}, {"y": ["n", 32]}, {**weights, "pick": np.zeros(2, bool)})
    data = [Case("c", {"x": RNG.standard_normal((2, 32)).astype(np.float32)}) for _ in range(3)]
    result = quantize(Program({"main": graph}), "int8-static", backends.oracle, data, Settings())
    assert result.history[-1].notes["kept_float"] == {"some": "no calibration sample computed it"}
    assert "x_scale" in {t.name for t in result.graphs["main"].graph.initializer}


def test_a_value_that_overflows_on_real_data_is_an_error() -> None:
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Gemm", ["e", "w"], ["y"])]
    graph = model(nodes, {"x": ["b", 32]}, {"y": ["b", 32]}, {"w": np.ones((32, 32), np.float32)})
    data = [Case("c", {"x": np.full((2, 32), x, np.float32)}) for x in (1, 100)]
    with pytest.raises(BadInput, match=r"gives a non-finite value in 'e' \(sample 2, or one after it in its batch\)"):
        calibrate(Program({"main": graph}), {"main": {"e": 127}}, backends.oracle, data)
