"""The rewrite stage: what it checks, what it undoes, what it writes down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgeattn import rewrite as stage
from edgeattn.errors import BadInput, UnknownName, Unsupported
from edgeattn.program import Case, Program, Reference
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, as_programs
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite._view import dims
from edgeattn.standard import assert_standard, foreign_nodes
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime


def spatial_gate(**changes) -> Program:
    model = graph(
        """(float[batch,6,h,w] x) => (float[batch,1,h,w] y) {
            r = ReduceMax <keepdims = 0> (x, axes)
            m = Unsqueeze(r, axes)
            y = Sigmoid(m) }""",
        axes=i64(1),
    )
    return replace(draw_cases(Program({"main": model})), **changes)


def rewrite(program, **options):
    return stage.rewrite(program, open_plain, **options)


def notes_of(program):
    return program.history[-1].notes


def rule_record(program, name):
    return next(r for r in notes_of(program)["rules"] if r["rule"] == name)


def test_writes_down_what_every_rule_did():
    result = rewrite(spatial_gate())
    assert [r["rule"] for r in notes_of(result)["rules"]] == list(stage.ORDER)
    assert rule_record(result, "canonicalise_reduce") == {
        "rule": "canonicalise_reduce",
        "count": 1,
        "nodes_before": 3,
        "nodes_after": 2,
        "max_abs": 0.0,
        "exactness": "bit-exact",
        "where": ["node_m"],
    }
    assert notes_of(result)["operators_before"]["histogram"] == {"ReduceMax": 1, "Sigmoid": 1, "Unsqueeze": 1}
    assert notes_of(result)["cases"] == 2
    assert notes_of(result)["inputs"] == ["x: float32[batch, 6, h, w]"]
    assert notes_of(result)["outputs"] == ["y: float32[batch, 1, h, w]"]
    assert notes_of(result)["operators"] == {"domains": ["ai.onnx"], "histogram": {"ReduceMax": 1, "Sigmoid": 1}}
    assert result.history[-1].name == "rewrite"


def test_does_not_edit_its_input():
    source = spatial_gate()
    digest = source.digest()
    assert rewrite(source).digest() != digest
    assert source.digest() == digest


def test_gives_the_same_bytes_twice():
    assert rewrite(spatial_gate()).digest() == rewrite(spatial_gate()).digest()


def test_only_and_skip_choose_the_rules():
    names = [r["rule"] for r in notes_of(rewrite(spatial_gate(), only=["canonicalise_reduce"]))["rules"]]
    assert names == ["canonicalise_reduce"]
    assert rewrite(spatial_gate(), skip=["canonicalise_reduce"]).graphs["main"].graph.node[1].op_type == "Unsqueeze"


@pytest.mark.parametrize("where", ["only", "skip"])
def test_an_unknown_rule_name_gets_the_nearest(where):
    with pytest.raises(UnknownName, match=r"unknown rule 'remove_expnd'; did you mean 'remove_expand'"):
        rewrite(spatial_gate(), **{where: ["remove_expnd"]})


def test_tells_its_progress_a_line_a_rule():
    lines: list[str] = []
    rewrite(spatial_gate(), only=["canonicalise_reduce"], progress=lines.append)
    assert lines == ["canonicalise_reduce: 1 rewritten, 3 -> 2 nodes"]


def test_a_vendor_operator_is_refused_with_exit_code_4_and_its_name():
    program = spatial_gate()
    program.graphs["main"].graph.node[2].domain = "com.microsoft"
    program.graphs["main"].graph.node[2].op_type = "QuickGelu"
    program.graphs["main"].opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(Unsupported) as caught:
        rewrite(program)
    assert caught.value.exit_code == 4
    assert str(caught.value) == (
        "graph 'main': rewrite takes standard ONNX operators only; found com.microsoft::QuickGelu (node 'node_y'); "
        "export or optimise the model again without vendor operators (for ONNX Runtime: at most BASIC)"
    )


def test_vendor_operators_are_found_inside_subgraphs_and_functions():
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Gelu", ["x"], ["y"], name="deep", domain="com.microsoft")],
        "then",
        [],
        [onnx.helper.make_tensor_value_info("y", 1, [1])],
    )
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    function = onnx.helper.make_function(
        "local", "F", ["x"], ["y"], [onnx.helper.make_node("Bias", ["x"], ["y"], name="b", domain="vendor")], []
    )
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []), functions=[function])
    assert ("deep", "com.microsoft", "Gelu") in foreign_nodes(model)
    assert ("F/b", "vendor", "Bias") in foreign_nodes(model)
    with pytest.raises(Unsupported, match=r"quantize takes standard ONNX operators only"):
        assert_standard(Program({"main": model}), "quantize")


def test_local_functions_of_standard_operators_are_inlined():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18, "local" : 1]>
        g (float[batch,4] x) => (float[batch,4] y) { y = local.twice(x) }
        <domain: "local", opset_import: ["" : 18]>
        twice (x) => (y) { y = Add(x, x) }"""
    )
    result = rewrite(draw_cases(Program({"main": model})))
    assert [n.op_type for n in result.graphs["main"].graph.node] == ["Add"]


def test_an_invalid_graph_is_bad_input():
    program = spatial_gate()
    program.graphs["main"].graph.node[2].input[0] = "nowhere"
    with pytest.raises(BadInput, match=r"graph 'main' is not valid ONNX: .*nowhere"):
        rewrite(program)


def test_an_old_opset_is_named():
    model = graph("(float[batch,4] x) => (float[batch,4] y) { y = Relu(x) }", opset=9)
    with pytest.raises(Unsupported, match=r"opset 9; rewrite reads 11 to 26; export it again with --opset 18"):
        rewrite(draw_cases(Program({"main": model})))


@pytest.mark.parametrize("reference", [None, Reference("source graph", ())])
def test_a_program_without_reference_cases_is_refused(reference):
    with pytest.raises(BadInput, match="no reference cases"):
        rewrite(spatial_gate(reference=reference))


class Wrong(GraphRule):
    """Replaces Sigmoid by something else."""

    name = "wrong"
    exactness = ALLCLOSE
    anchors = ("Sigmoid",)
    op = "Tanh"

    def match(self, node, view):
        return Match(node, (node,))

    def rewrite(self, match, build):
        x = match.anchor.inputs[0]
        build.replace(match.anchor.outputs[0], build.op(self.op, x, shape=dims(x)))

    def examples(self):
        return as_programs()

    def near_misses(self):
        return as_programs()


class Vendor(Wrong):
    """Builds an operator that ONNX does not know."""

    op = "NoSuchOperator"


class Crashes(Wrong):
    """Has a bug."""

    def rewrite(self, match, build):
        raise ZeroDivisionError("oops")


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (Wrong(), "case 'draw-0', output 'y': differs by"),
        (Vendor(), "graph 'main' is not valid ONNX: No Op registered for NoSuchOperator"),
        (Crashes(), "raised ZeroDivisionError: oops"),
    ],
)
def test_a_rule_that_fails_is_undone_named_and_the_others_go_on(monkeypatch, rule, reason):
    monkeypatch.setattr(stage, "_named", lambda name: rule if name == "remove_expand" else real(name))
    result = rewrite(spatial_gate())
    undone = [r for r in notes_of(result)["rules"] if "undone" in r]
    assert [r["rule"] for r in undone] == ["wrong"]
    assert undone[0]["undone"].startswith(reason)
    assert undone[0]["nodes_before"] == undone[0]["nodes_after"]
    assert [n.op_type for n in result.graphs["main"].graph.node] == ["ReduceMax", "Sigmoid"]


real = stage._named


def test_numbers_are_judged_at_the_size_of_the_output():
    # Sums that cancel leave errors the size of their terms: 1e3 * 1e-5 is allowed, four times that is not.
    want = np.array([1e3, 0.0], np.float32)
    from edgeattn.rewrite._check import compare

    assert not compare(want, want + np.float32([0, 0.009]))[0]
    assert compare(want, want + np.float32([0, 0.04]))[0]


def test_nan_and_inf_must_stay_where_they_are():
    from edgeattn.rewrite._check import compare

    want = np.array([np.nan, np.inf, 1.0], np.float32)
    assert not compare(want, want.copy())[0]
    assert compare(want, np.array([np.nan, -np.inf, 1.0], np.float32))[0]
    assert compare(want, np.array([0.0, np.inf, 1.0], np.float32))[0]
    assert compare(want, np.array([np.nan, np.inf, np.nan], np.float32))[0]


def test_integers_must_be_equal():
    from edgeattn.rewrite._check import compare

    assert compare(np.array([1, 2]), np.array([1, 3]))[0] == "1 of 2 values differ, none may"


def test_why_not_lists_the_nearest_miss_first():
    model = graph(
        """(float[batch,6,h,w] x) => (float[batch,1,h,w] y, float[batch,h,w] r, float[batch,h,1,w] z) {
            r = ReduceMax <keepdims = 0> (x, one)
            y = Unsqueeze(r, one)
            q = ReduceMin <keepdims = 0> (x, one)
            z = Unsqueeze(q, two) }""",
        one=i64(1),
        two=i64(2),
    )
    misses = stage.why_not("canonicalise_reduce", Program({"main": model}))
    assert [str(m) for m in misses] == [
        "node_r: the squeezed value is read elsewhere too",
        "node_z: unsqueezes axes (2,), but (1,) were reduced",
    ]
    assert misses[0].anchor == "node_y"
    assert misses[0].graph == "main"


def test_why_not_of_an_unknown_rule_gets_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'remove_expand'"):
        stage.why_not("remove_expands", spatial_gate())


def test_a_case_that_the_source_cannot_run_is_an_error_that_names_it():
    program = spatial_gate()
    case = Case("no-x", {})
    with pytest.raises(Exception, match="no-x"):
        rewrite(replace(program, reference=Reference("source graph", (case,))))


def test_outputs_that_are_sequences_are_judged_tensor_by_tensor():
    model = graph(
        """(float[2,3] x) => (seq(float[p,q]) y, float[2,3] z) {
            c = Constant <value_float = 2.0> ()
            w = Sqrt(c)
            m = Mul(x, w)
            y = SequenceConstruct(m, x)
            z = Relu(x) }"""
    )
    case = Case("drawn", {"x": np.arange(6, dtype=np.float32).reshape(2, 3)})
    result = rewrite(Program({"main": model}, reference=Reference("source graph", (case,))))
    record = rule_record(result, "fold_constants")
    assert record["count"] >= 1
    assert "undone" not in record


@pytest.mark.parametrize("have", [np.zeros(2), [np.zeros(2)], [np.zeros(2), np.ones(2)]])
def test_a_sequence_with_other_tensors_in_it_is_another_answer(have):
    from edgeattn.rewrite import _check

    wanted = {"y": [np.zeros(2), np.zeros(2)]}
    assert _check.judge([wanted], [{"y": have}], ["a"], ALLCLOSE).reason.startswith("case 'a', output 'y': ")


def test_old_files_leave_in_a_version_that_may_hold_constants():
    model = graph("(float[batch,4] x, float[4] w) => (float[batch,4] y) { y = Add(x, w) }", w=(4,))
    model.ir_version = 3
    result = rewrite(draw_cases(Program({"main": model})))
    assert result.graphs["main"].ir_version == 4
    assert model.ir_version == 3


def test_rules_know_shapes_and_types_inside_branches():
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[batch,6,h,w] x, bool[1] c) => (float[batch,1,h,w] y) <int64[1] axes = {1}> {
            y = If (c) <
                then_branch = t () => (float[batch,1,h,w] a) {
                    r = ReduceMax <keepdims = 0> (x, axes)
                    a = Unsqueeze(r, axes) },
                else_branch = e () => (float[batch,1,h,w] b) {
                    s = ReduceMean <keepdims = 0> (x, axes)
                    b = Unsqueeze(s, axes) }
            > }"""
    )
    result = rewrite(draw_cases(Program({"main": model})))
    assert rule_record(result, "canonicalise_reduce")["count"] == 2
    (chosen,) = result.graphs["main"].graph.node
    assert [[n.op_type for n in a.g.node] for a in chosen.attribute] == [["ReduceMax"], ["ReduceMean"]]
