"""Dimensions become numbers: along the wiring, with everything that follows from them, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn import graphs, registry
from edgeattn import rewrite as stage
from edgeattn.errors import BadInput, UsageError
from edgeattn.program import Case, Program, Reference, Stop, Wiring
from edgeattn.rewrite import _loop_samples
from edgeattn.rewrite._sample import graph, i64
from edgeattn.rewrite.fix_sizes import FixSizes
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime


def image_gate() -> Program:
    """A gate spread over the map by Shape, Slice, Concat and Expand, whose map is halved before."""
    model = graph(
        """(float[batch,3,height,width] x) => (float[p,q,r,s] y, float[rows,three] flat) {
            z = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
            g = GlobalMaxPool(z)
            size = Shape(z)
            hw = Slice(size, two, four)
            n = Shape <start = 0, end = 2> (x)
            whole = Concat <axis = 0> (n, hw)
            wide = Expand(g, whole)
            y = Mul(z, wide)
            batch = Gather(size, zero)
            target = Concat <axis = 0> (batch, minus)
            flat = Reshape(g, target) }""",
        zero=i64(0),
        two=i64(2),
        four=i64(4),
        minus=i64(-1),
    )
    return draw_cases(Program({"main": model}))


def fixed(program, sizes, **options):
    return stage.rewrite(program, open_plain, sizes=sizes, **options)


def shapes(program) -> dict[str, tuple[int | str, ...]]:
    models = program.graphs.items()
    return {f"{g}.{s.name}": s.shape for g, m in models for s in (*graphs.input_specs(m), *graphs.output_specs(m))}


def test_inputs_and_outputs_are_numbers_and_no_shape_operator_is_left():
    result = fixed(image_gate(), {"batch": 1, "height": 8, "width": 10})
    assert shapes(result) == {"main.x": (1, 3, 8, 10), "main.y": (1, 3, 4, 5), "main.flat": (1, 3)}
    left = {n.op_type for n in result.graphs["main"].graph.node}
    assert left == {"MaxPool", "GlobalMaxPool", "Mul", "Reshape"}


def test_one_dimension_can_be_fixed_by_input_axis_and_the_others_stay():
    result = fixed(image_gate(), {"x:3": 10})
    assert shapes(result)["main.x"] == ("batch", 3, "height", 10)


def test_numbers_at_that_size_are_the_same_to_the_bit():
    source = image_gate()
    result = fixed(source, {"batch": 2, "height": 8, "width": 8}, only=["fold_constants"])
    assert [r["rule"] for r in result.history[-1].notes["rules"]] == ["fix_sizes", "fold_constants"]
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    ours, theirs = open_plain(result)["main"].run({"x": x}), open_plain(source)["main"].run({"x": x})
    np.testing.assert_array_equal(ours["y"], theirs["y"])


def test_a_dimension_goes_along_the_wiring_though_the_step_calls_it_otherwise():
    source = _loop_samples.wired()
    step = source.graphs["step"]
    for value in (*step.graph.input, *step.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = {"source": "s", "batch": "b"}[dim.dim_param]
    result = fixed(draw_cases(source), {"batch": 1, "source": 6})
    found = shapes(result)
    assert found["encoder.x"] == (1, 6, 4)
    assert (found["step.token"], found["step.memory"], found["step.h"]) == ((1,), (1, 6, 4), (1, 4))
    assert found["step.alignment"] == (1, 6)


def test_the_report_says_what_it_takes_from_now_on():
    record = fixed(image_gate(), {"batch": 1}).history[-1].notes["rules"][1]
    assert record["rule"] == "fix_sizes"
    assert record["note"] == "batch=1: it takes x: float32[1, 3, height, width] from now on"


def test_cases_that_fit_are_kept_and_others_are_drawn_at_the_size():
    source = image_gate()
    real = Case("real-1", {"x": np.ones((1, 3, 8, 8), np.float32)})
    source = Program(source.graphs, reference=Reference("source graph", (*source.reference.cases, real)))
    cases = fixed(source, {"batch": 1, "height": 8, "width": 8}).reference.cases
    assert cases[0].name == "real-1"
    assert {c.feeds["x"].shape for c in cases} == {(1, 3, 8, 8)}
    assert len(cases) == 7


def test_a_program_that_is_not_asked_to_be_fixed_keeps_its_names():
    assert shapes(stage.rewrite(image_gate(), open_plain))["main.x"] == ("batch", 3, "height", "width")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"hight": 8}, "--fix hight=8: no dimension is called 'hight'; did you mean 'height'?"),
        ({"x:1": 4}, "--fix x:1=4: axis 1 of input 'x' is 3 already"),
        ({"x:4": 4}, "--fix x:4=4: input 'x' has 4 axes: x: float32[batch, 3, height, width]"),
        (
            {"batch": 1, "x:0": 2},
            "--fix batch=1, x:0=2: 'x:0' is the same dimension as one fixed at 1; give one size for both",
        ),
    ],
)
def test_a_size_that_cannot_be_meant_is_a_usage_error(sizes, message):
    with pytest.raises(UsageError) as caught:
        fixed(image_gate(), sizes)
    assert str(caught.value) == message


def test_a_size_that_the_graph_cannot_take_is_an_error_with_its_reason():
    model = graph(
        "(float[batch,c] x) => (float[batch,2] y) { y = MatMul(x, w) }",
        w=(6, 2),
    )
    for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]:
        dim.ClearField("dim_value")
        dim.dim_param = "c"
    feeds = {"x": np.ones((1, 6), np.float32)}
    program = Program({"main": model}, reference=Reference("source graph", (Case("one", feeds),)))
    with pytest.raises(BadInput, match=r"--fix c=5: .*"):
        fixed(program, {"c": 5})


def test_a_state_that_grows_has_no_size():
    step = graph(
        """(int64[batch] token, float[batch,past,1] cache) => (float[batch,2] logits, float[batch,now,1] cache_out) {
            f = Cast <to = 1> (token)
            row = Unsqueeze(f, axes)
            cache_out = Concat <axis = 1> (cache, row)
            s = ReduceSum <keepdims = 0> (cache_out, one)
            m = Neg(s)
            logits = Concat <axis = 1> (s, m) }""",
        axes=i64(1, 2),
        one=i64(1),
    )
    prompt = graph("(float[batch,prompt,1] x) => (float[batch,prompt,1] kept) { kept = Relu(x) }")
    wiring = Wiring(
        {"step.cache": "prompt.kept"}, {"step.cache": "step.cache_out"}, Stop("step.token", "step.logits", 0, 1, 4)
    )
    program = Program({"prompt": prompt, "step": step}, wiring)
    with pytest.raises(UsageError, match="dimension 'past' grows from step to step, so it has no one size"):
        FixSizes({"past": 3}).resolve(program)
    assert FixSizes({"prompt": 3}).resolve(program) == {("prompt", "prompt"): 3}
    assert {g for g, _ in FixSizes({"batch": 1}).resolve(program)} == {"prompt", "step"}


def test_asked_for_by_name_alone_it_fixes_the_batch_at_one():
    result = stage.rewrite(image_gate(), open_plain, also=["fix_sizes"])
    assert shapes(result)["main.x"] == (1, 3, "height", "width")
    assert registry.get("rewrite", "fix_sizes").sizes == {"batch": 1}


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("cbam_digits", {"batch": 1}),
        ("bert_numbers", {"batch": 1, "source": 30}),
        ("vit_digits", {"image:0": 1}),
        ("luong_dates", {"batch": 1, "source": 20}),
        ("bahdanau_numbers", {"batch": 1, "source": 12}),
    ],
)
def test_reference_models_at_fixed_sizes_hold_no_shape_arithmetic(name, sizes):
    from edgeattn import backends, source
    from edgeattn.export import export

    result = stage.rewrite(export(source.resolve(name).source), backends.oracle, sizes=sizes)
    operators = {n.op_type for m in result.graphs.values() for n in m.graph.node}
    assert not operators & {"Shape", "Size", "ConstantOfShape", "Range", "If"}
    assert all(isinstance(d, int) for shape in shapes(result).values() for d in shape)
    assert [r for r in result.history[-1].notes["rules"] if "undone" in r] == []


@pytest.mark.torch
@pytest.mark.slow
def test_a_gpt_at_a_fixed_batch_still_decodes_and_its_cache_still_grows():
    from edgeattn import backends, decode, source
    from edgeattn.export import export

    exported = export(source.resolve("gpt_text").source)
    result = stage.rewrite(exported, backends.oracle, sizes={"batch": 1, "prompt": 16}, only=["fold_constants"])
    feeds = result.reference.cases[0].feeds
    ours = decode.run(backends.oracle(result), result.wiring, feeds)["tokens"]
    theirs = decode.run(backends.oracle(exported), exported.wiring, feeds)["tokens"]
    np.testing.assert_array_equal(ours, theirs)


def test_rules_after_it_are_judged_on_its_cases():
    # Products of large terms that cancel: how far the source is from itself is asked of the case at hand.
    source = image_gate()
    result = fixed(source, {"batch": 3, "height": 8, "width": 8})
    assert len(result.reference.cases) > len(source.reference.cases)
    assert [r for r in result.history[-1].notes["rules"] if "undone" in r] == []
