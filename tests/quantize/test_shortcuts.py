"""Shortcuts past a gate: copied as they lie, so that the engine writes them once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from edgeattn import backends, registry
from edgeattn.backends import Options
from edgeattn.program import Case, Program, StageRecord
from edgeattn.quantize import Settings, quantize
from edgeattn.quantize._shortcuts import hand_over
from edgeattn.recognise import recognise
from tests.quantize.test_gates import CAM, SE, net, sam
from tests.quantize.test_gates import n as node

RNG = np.random.default_rng(5)


def gated(gate: list[onnx.NodeProto]) -> onnx.ModelProto:
    """A shortcut that a convolution reads too, as in a block without a projection; the gate's product stays last."""
    convolution = node("Conv", ["short", "wh"], ["also"], name="also")
    return net([convolution, *gate], extra=("also",))


@pytest.mark.parametrize("gate", [SE, [*CAM, *sam("u")]], ids=["se", "cbam"])
def test_a_shortcut_past_a_gate_is_the_same_behind_its_copy(gate: list[onnx.NodeProto]) -> None:
    model = gated(gate)
    copied, values = hand_over(model, recognise(model))
    assert values == ("short",)
    (add,) = (each for each in copied.graph.node if each.name == "residual")
    assert "short/copy" in add.input
    feeds = {"image": RNG.standard_normal((1, 3, 18, 18)).astype(np.float32)}
    before, after = (
        backends.oracle(Program({"main": m}, history=(StageRecord("test", 0.0),)))["main"].run(feeds)["y"]
        for m in (model, copied)
    )
    np.testing.assert_array_equal(after, before)  # a copy


def test_a_shortcut_that_its_sum_alone_reads_fuses_with_its_convolution() -> None:
    model = net(SE)
    assert hand_over(model, recognise(model)) == (model, ())


def test_openvino_reads_a_shortcut_past_a_gate_in_int8() -> None:
    backend = registry.get("backends", "openvino")
    data = [Case("c", {"image": RNG.standard_normal((1, 3, 18, 18)).astype(np.float32)}) for _ in range(4)]
    program = Program({"main": gated(SE)}, history=(StageRecord("test", 0.0),))
    made = quantize(program, "int8-static", backends.oracle, data, Settings(qdq=backend.qdq))
    assert made.history[-1].notes["shortcuts_handed_over"] == ["short"]
    ran = backend.profile(made.graphs["main"], Options("cpu", "int8", 1))
    assert {row.node: row.kernel for row in ran if row.op == "Pooling"}["short/copy"].lower().endswith("i8")
