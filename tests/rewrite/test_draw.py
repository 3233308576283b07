"""Graphs drawn as text, from the graphs themselves."""

from __future__ import annotations

from onnx import helper

from edgeattn import registry
from edgeattn.program import Program
from edgeattn.rewrite import _apply, _draw
from edgeattn.rewrite._sample import f32, graph
from tests.graphs import model


def test_a_chain_is_a_line_with_its_constants_and_what_is_not_default():
    drawn = _draw.draw(
        Program(
            {
                "main": graph(
                    """(float[batch,8,6,6] x) => (float[batch,4,6,6] y) {
                        c = Conv <group = 1, pads = [1, 1, 1, 1]> (x, w)
                        r = Relu(c)
                        m = Mul(r, two)
                        y = Clip(m, zero) }""",
                    w=(4, 8, 3, 3), two=f32(2.0), zero=f32(0.0),
                )
            }
        )
    )  # fmt: skip
    assert drawn == "x → Conv(w[4,8,3,3], pads=[1, 1, 1, 1]) → Relu → Mul(2) → Clip(0) → y"


def test_what_is_read_twice_ends_a_line_and_two_inputs_begin_one():
    rule = registry.get("rewrite", "remove_expand")
    source = rule.examples()[0]
    assert _draw.draw(source).splitlines() == ["x → Shape → size", "gate, size → Expand → wide", "x, wide → Mul → y"]
    assert _draw.draw(_apply.apply(rule, source).program) == "x, gate → Mul → y"


def test_values_with_long_names_get_short_ones_that_nothing_else_has():
    nodes = [
        helper.make_node("Relu", ["x"], ["a/b:0"]),
        helper.make_node("Neg", ["a/b:0"], ["t1"]),
        helper.make_node("Add", ["a/b:0", "t1"], ["y"]),
    ]
    drawn = _draw.draw(Program({"main": model(nodes, {"x": ["n"]}, {"y": ["n"]})}))
    assert drawn.splitlines() == ["x → Relu → t2", "t2 → Neg → t1", "t2, t1 → Add → y"]


def test_constants_of_every_kind_are_drawn_or_left_out_and_never_fail():
    nodes = [
        helper.make_node("Constant", [], ["c1"], value_float=0.5),
        helper.make_node("Constant", [], ["c2"], value_ints=[1, 2, 3]),
        helper.make_node("Constant", [], ["c3"], value_string="text"),
        helper.make_node("Mul", ["x", "c1"], ["m"]),
        helper.make_node("Reshape", ["m", "c2"], ["r"]),
        helper.make_node("Custom", ["r", "c3", ""], ["y", ""], domain="own", note="n" * 60),
    ]
    drawn = _draw.draw(Program({"main": model(nodes, {"x": ["n"]}, {"y": ["n"]})}))
    assert drawn == f"x → Mul(0.5) → Reshape([1, 2, 3]) → Custom(c3, note={'n' * 39}…) → y"


def test_a_program_of_several_graphs_tells_what_flows_between_them():
    drawn = _draw.draw(registry.get("rewrite", "hoist_keys").examples()[0]).splitlines()
    assert drawn[0] == "encoder:"
    assert "step:" in drawn
    assert drawn[drawn.index("once:") + 1] == "  encoder.memory → step.memory"
    assert drawn[drawn.index("every step:") + 1] == "  step.h_out → step.h"
