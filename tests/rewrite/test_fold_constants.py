"""Constant folding keeps names, dimensions and provenance, whichever tool does it."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

from edgeattn import registry
from edgeattn.program import Program
from edgeattn.rewrite import _apply, _check
from edgeattn.rewrite._sample import f32, graph
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime
RULE = registry.get("rewrite", "fold_constants")


def model():
    built = graph(
        """(float[batch,4,h] x) => (float[batch,4,h] y) {
            c = Constant <value_float = 2.0> ()
            r = Sqrt(c)
            z = Add(x, r)
            i = Identity(z)
            y = Relu(i) }"""
    )
    built.producer_name = "pytorch"
    built.metadata_props.add(key="note", value="kept")
    for node in built.graph.node:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', 'layer', '{node.output[0]}']")
    return built


@pytest.fixture(params=["onnxsim", "onnxscript"])
def folded(request, monkeypatch):
    if request.param == "onnxscript":
        monkeypatch.setitem(sys.modules, "onnxsim", None)
    source = draw_cases(Program({"main": model()}))
    outcome = RULE.apply(source)
    return source, outcome


def test_only_what_reads_the_input_is_left(folded):
    _, outcome = folded
    assert [n.op_type for n in outcome.program.graphs["main"].graph.node] == ["Add", "Relu"]
    assert outcome.count == 3


def test_numbers_are_the_same(folded):
    source, outcome = folded
    names = [c.name for c in source.reference.cases]
    results = _check.outputs_of(source, open_plain), _check.outputs_of(outcome.program, open_plain)
    assert _check.judge(*results, names, RULE.exactness).reason == ""


def test_dynamic_dimensions_producer_and_module_names_survive(folded):
    source, outcome = folded
    ours, theirs = outcome.program.graphs["main"], source.graphs["main"]
    assert list(ours.graph.input) == list(theirs.graph.input)
    assert list(ours.graph.output) == list(theirs.graph.output)
    assert ours.producer_name == "pytorch"
    assert [(p.key, p.value) for p in ours.metadata_props] == [("note", "kept")]
    scopes = [{p.key: p.value for p in n.metadata_props}["pkg.torch.onnx.name_scopes"] for n in ours.graph.node]
    assert scopes == ["['', 'layer', 'z']", "['', 'layer', 'y']"]


def test_the_source_is_not_edited(folded):
    source, _ = folded
    assert source.graphs["main"] == model()


def test_an_identity_from_input_to_output_stays():
    built = graph("(float[batch,4] x) => (float[batch,4] y) { c = Sqrt(two)  y = Identity(x) }", two=f32(2.0))
    result = RULE.apply(Program({"main": built})).program.graphs["main"]
    assert [n.op_type for n in result.graph.node] == ["Identity"]
    assert [v.name for v in result.graph.output] == ["y"]


def test_an_identity_in_a_branch_stays():
    built = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (bool c, float[batch] x) => (float[batch] y) {
            two = Constant <value_float = 2.0> ()
            z = Mul(x, two)
            y = If (c) <
                then_branch = t () => (float[batch] a) { a = Identity(z) },
                else_branch = e () => (float[batch] b) { b = Neg(z) }
            > }"""
    )
    result = RULE.apply(Program({"main": built})).program
    x = np.array([1.0, -2.0], np.float32)
    for flag, sign in ((True, 2), (False, -2)):
        out = open_plain(result)["main"].run({"c": np.array(flag), "x": x})["y"]
        np.testing.assert_array_equal(out, sign * x)


def test_a_default_that_a_caller_may_replace_stays_an_input_with_a_default():
    built = graph(
        """(float[batch,4] x, float[4,4] w) => (float[batch,4] y) {
            i = Identity(w)
            t = Transpose(i)
            y = MatMul(x, t) }"""
    )
    built.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    result = RULE.apply(Program({"main": built})).program
    feeds = {"x": np.ones((1, 4), np.float32), "w": np.full((4, 4), 2, np.float32)}
    (session,) = open_plain(result).values()
    assert session.run(feeds)["y"].tolist() == [[8.0] * 4]
    assert [t.name for t in result.graphs["main"].graph.initializer] == ["w"]


def test_a_constant_that_the_caller_may_override_is_not_folded():
    model = graph(
        """(float[batch,4] x, float[4] w) => (float[batch,4] y) {
            r = Sqrt(w)
            s = Sqrt(two)
            z = Mul(x, r)
            y = Mul(z, s) }""",
        w=np.full(4, 4.0, np.float32),
        two=f32(2.0),
    )
    model.ir_version = 3
    model.graph.input.append(onnx.helper.make_tensor_value_info("two", onnx.TensorProto.FLOAT, []))
    fixed = graph("(float[batch,4] x) => (float[batch,4] y) { s = Sqrt(c)  y = Mul(x, s) }", c=f32(2.0))
    fixed.graph.input.append(onnx.helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, []))
    fixed.graph.initializer.append(onnx.numpy_helper.from_array(f32(3.0), "d"))
    assert registry.get("rewrite", "fold_constants").apply(Program({"main": model})).count == 0
    result = registry.get("rewrite", "fold_constants").apply(Program({"main": fixed}))
    assert result.count == 1
    assert [t.name for t in result.program.graphs["main"].graph.initializer if t.name == "d"] == ["d"]
    assert _check.not_as_before(Program({"main": fixed}), result.program) == ""


def test_a_choice_that_is_made_already_leaves_the_branch_it_takes():
    model = graph(
        """(float[2,3] x) => (float[p,q] y) {
            s = Shape <start = 0, end = 1> (x)
            n = Squeeze(s)
            yes = Equal(n, two)
            y = If (yes) <
                then_branch = then () => (float[2,3] a) { a = Relu(x) },
                else_branch = other () => (float[3,2] b) { b = Transpose(x) }
            > }""",
        two=np.array(2, np.int64),
    )
    source = draw_cases(Program({"main": model}))
    result = registry.get("rewrite", "fold_constants").apply(source)
    assert [node.op_type for node in result.program.graphs["main"].graph.node] == ["Relu"]
    (before,), (after,) = (_check.outputs_of(p, open_plain)[:1] for p in (source, result.program))
    np.testing.assert_array_equal(before["y"], after["y"])


def folded_alone(built):
    return RULE.apply(Program({"main": built}))


def operators(outcome):
    return [n.op_type for n in outcome.program.graphs["main"].graph.node]


def test_a_known_branch_is_taken_and_what_it_makes_known_is_folded():
    # The exporter's Squeeze of a dimension that might not be 1, twice: the second waits for the first one's shape.
    built = graph(
        """(float[batch,4,1] x) => (float[batch,4] y) {
            s = Shape(x)
            d = Gather(s, two)
            is_one = Equal(d, one)
            z = If(is_one) <
                then_branch = yes () => (float[batch,4] a) {
                    last = Constant <value_ints = [2]> ()
                    a = Squeeze(x, last) },
                else_branch = no () => (float[batch,4,1] b) { b = Identity(x) }
            >
            r = Shape(z)
            n = Size(r)
            flat = Equal(n, two)
            y = If(flat) <
                then_branch = yes2 () => (float[batch,4] a) { a = Relu(z) },
                else_branch = no2 () => (float[batch,4] b) { b = Neg(z) }
            > }""",
        two=np.array(2, np.int64),
        one=np.array(1, np.int64),
    )
    outcome = folded_alone(built)
    assert operators(outcome) == ["Squeeze", "Relu"]
    x = np.array([[[1.0], [-2.0], [0.0], [3.0]]], np.float32)
    np.testing.assert_array_equal(open_plain(outcome.program)["main"].run({"x": x})["y"], [[1, 0, 0, 3]])


def test_a_branch_inside_a_branch_and_names_used_twice_are_kept_apart():
    built = graph(
        """(float[batch,4] x) => (float[batch,4] y) {
            z = If(yes) <
                then_branch = t () => (float[batch,4] r) { w = Neg(x)  r = If(no) <
                    then_branch = t2 () => (float[batch,4] q) { q = Abs(w) },
                    else_branch = e2 () => (float[batch,4] q) { q = Exp(w) }> },
                else_branch = e () => (float[batch,4] r) { r = Relu(x) }
            >
            y = If(no) <
                then_branch = t3 () => (float[batch,4] r) { r = Abs(z) },
                else_branch = e3 () => (float[batch,4] r) { w = Neg(z)  r = Tanh(w) }
            > }""",
        yes=np.array(True),
        no=np.array(False),
    )
    outcome = folded_alone(built)
    assert operators(outcome) == ["Neg", "Exp", "Neg", "Tanh"]
    x = np.array([[0.5, -0.5, 0.0, 1.0]], np.float32)
    found = open_plain(outcome.program)["main"].run({"x": x})["y"]
    np.testing.assert_allclose(found, np.tanh(-np.exp(-x)), rtol=1e-6)  # a float32 unit or two of Exp and Tanh


def test_a_condition_that_the_caller_may_override_stays():
    built = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[batch] x, bool c = {1}) => (float[batch] y) {
            two = Constant <value_float = 2.0> ()
            z = Mul(x, two)
            y = If (c) <then_branch = t () => (float[batch] a) { a = Abs(z) },
                        else_branch = e () => (float[batch] b) { b = Neg(z) }> }"""
    )
    assert "If" in operators(folded_alone(built))


@pytest.mark.parametrize(
    "maker",
    [
        "z = ConstantOfShape(sizes)",
        "z = Expand(one, sizes)",
        "z = Tile(row, sizes)",
    ],
)
def test_a_constant_too_large_to_make_is_seen_before_it_is_made(maker):
    built = graph(
        f"""(float[batch,4] x) => (float[batch,4] y) {{
            {maker}
            s = ReduceMax <keepdims = 0> (z)
            y = Add(x, s) }}""",
        sizes=np.array([60_000, 60_000], np.int64),
        one=f32(1.0),
        row=(1, 1),
        zero=np.array(0, np.int64),
        many=np.array(4 * 10**9, np.int64),
        step=np.array(1, np.int64),
    )
    outcome = folded_alone(built)
    assert outcome.count == 0
    assert "elements of a few" in outcome.misses[0].reason


def test_a_range_of_billions_costs_nothing_to_look_at():
    built = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[batch,4] x) => (float[batch,4] y) <int64 zero = {0}, int64 step = {1}, int64 root = {100000}> {
            many = Mul(root, root)
            i = Range(zero, many, step)
            z = Cast <to = 1> (i)
            s = ReduceMax <keepdims = 0> (z)
            y = Add(x, s) }"""
    )
    outcome = folded_alone(built)
    assert [m.reason for m in outcome.misses] == ["it would make 10,000,000,000 elements of a few"]
    _apply.infer_shapes(built)  # with data propagation this took 80 GB


@pytest.mark.parametrize(
    "random",
    [
        "z = RandomNormal <shape = [4]> ()",
        "z = RandomUniformLike(half)",
        "z = Bernoulli(half)",
        "m = Multinomial <sample_size = 4, dtype = 7> (rows)  z = Cast <to = 1> (m)",
        "z = Dropout(half, ratio, on)",
    ],
)
def test_random_numbers_stay_random(random):
    built = graph(
        f"(float[batch,4] x) => (float[batch,4] y) {{ {random}  y = Add(x, z) }}",
        half=np.full(4, 0.5, np.float32),
        rows=np.full((1, 4), 0.5, np.float32),
        ratio=f32(0.5),
        on=np.array(True),
    )
    before = [n.op_type for n in built.graph.node]
    assert operators(folded_alone(built)) == before


def test_a_loop_over_constants_is_not_run():
    built = graph(
        """(float[batch,4] x) => (float[batch,4] y) {
            z = Loop(forever, on, half) <body = b (int64 i, bool going, float a) => (bool again, float c) {
                again = Identity(going)
                c = Mul(a, a) }>
            y = Add(x, z) }""",
        forever=np.array(2**62, np.int64),
        on=np.array(True),
        half=f32(0.5),
    )
    assert "Loop" in operators(folded_alone(built))


@pytest.mark.parametrize(
    "pick",
    [
        "d = Gather(s, second)  m = Concat <axis = 0> (minus, d)",
        "d = Slice(s, second, third)  m = Concat <axis = 0> (minus, d)",
        "d = Gather(s, place)  u = Unsqueeze(d, front)  m = Concat <axis = 0> (minus, u)",
        "a, b = Split(s, parts)  d = Slice(b, front, second)  m = Concat <axis = 0> (minus, d)",
    ],
)
def test_a_known_size_beside_unknown_ones_is_picked_out(pick):
    built = graph(
        f"""(float[batch,6,h] x) => (float[p,6] y) {{
            s = Shape(x)
            {pick}
            y = Reshape(x, m) }}""",
        minus=np.array([-1], np.int64),
        front=np.array([0], np.int64),
        second=np.array([1], np.int64),
        third=np.array([2], np.int64),
        parts=np.array([1, 2], np.int64),
        place=np.array(1, np.int64),
    )
    assert operators(folded_alone(built)) == ["Reshape"]
