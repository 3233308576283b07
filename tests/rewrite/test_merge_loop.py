"""A program's steps as one graph with a Loop: the same tokens on every engine, and kept only where it is faster."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgeattn import decode, registry
from edgeattn import rewrite as stage
from edgeattn.backends import Options
from edgeattn.errors import UsageError
from edgeattn.program import Program, Stop, Wiring
from edgeattn.rewrite import Choice, _check, _loop_samples
from edgeattn.rewrite._sample import graph
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime
RULE = registry.get("rewrite", "merge_loop")


def merged(program, **options):
    return stage.rewrite(program, open_plain, only=["merge_loop"], **options)


def record(program):
    return next(r for r in program.history[-1].notes["rules"] if r["rule"] == "merge_loop")


def predicting() -> Program:
    """The first token is what the encoder predicts; rows end at once, later, or never."""
    source = _loop_samples.wired()
    encoder = graph(
        """(float[batch,source,4] x) =>
            (float[batch,source,4] memory, float[batch,4] first, float[batch,5] guess) {
            memory = Tanh(x)
            first = ReduceMax <keepdims = 0> (memory, one)
            guess = MatMul(first, output) }""",
        one=np.array([1], np.int64),
        output=(4, 5),
    )
    stop = Stop("step.token", "step.logits", 0, 1, 6, first="encoder.guess")
    return Program({**source.graphs, "encoder": encoder}, replace(source.wiring, stop=stop))


@pytest.mark.parametrize("build", [_loop_samples.wired, lambda: _loop_samples.wired(handed=False), predicting])
@pytest.mark.parametrize(("rows", "seed"), [(1, 0), (5, 3), (5, 5)])
def test_decodes_what_the_decode_loop_does(build, rows, seed):
    source = draw_cases(build())
    one = merged(source)
    assert one.wiring is None
    assert "undone" not in record(one)
    x = 3 * np.random.default_rng(seed).standard_normal((rows, 4, 4)).astype(np.float32)
    theirs = decode.run(open_plain(source), source.wiring, {"x": x})
    ours = open_plain(one)["main"].run({"x": x})
    assert set(theirs) - set(ours) <= {"h_out"}, "the state is the loop's own business"
    np.testing.assert_array_equal(ours["tokens"], theirs["tokens"])
    for name in set(theirs) - {"tokens", "h_out"}:
        assert _check.compare(theirs[name], ours[name])[0] == "", name


def test_stops_when_every_row_has_ended_and_feeds_ended_rows_the_end():
    """Logits that count down: a row whose state is s ends after s steps."""
    encoder = graph("(float[batch,1] x) => (float[batch,1] left) { left = Identity(x) }")
    step = graph(
        """(int64[batch] token, float[batch,1] n) => (float[batch,2] logits, int64[batch] seen, float[batch,1] n_out) {
            n_out = Sub(n, one)
            minus = Neg(n_out)
            logits = Concat <axis = 1> (n_out, minus)
            seen = Identity(token) }""",
        one=np.array([1], np.float32),
    )
    stop = Stop("step.token", "step.logits", 0, 1, 9)
    program = Program(
        {"encoder": encoder, "step": step}, Wiring({"step.n": "encoder.left"}, {"step.n": "step.n_out"}, stop)
    )
    one = merged(draw_cases(program))
    out = open_plain(one)["main"].run({"x": np.array([[1.5], [3.5]], np.float32)})
    assert out["tokens"].tolist() == [[0, 1, 1, 1], [0, 0, 0, 1]]
    assert out["seen"].T.tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]


def test_the_steps_weights_lie_inside_the_loop_where_onnx_runtime_prepacks_them():
    model = RULE.apply(_loop_samples.wired()).program.graphs["main"]
    (loop,) = (n for n in model.graph.node if n.op_type == "Loop")
    body = next(a.g for a in loop.attribute if a.name == "body")
    assert {"step/table", "step/output"} <= {t.name for t in body.initializer}


def test_without_being_asked_for_nothing_is_merged():
    source = draw_cases(_loop_samples.wired())
    assert stage.rewrite(source, open_plain).wiring is not None


def test_with_a_target_the_measurement_decides_between_forms_that_do_the_same_work():
    seen = []

    def slower(before, after):
        seen.append((before, after))
        return Choice(False, "onnxruntime:cpu", 0.9, (0.8, 0.95), "slower")

    source = draw_cases(_loop_samples.wired())
    result = merged(source, chooser=slower)
    assert result.wiring is not None
    assert record(result)["measured"]["keep"] is False
    ((before, after),) = seen
    assert [c.tokens for c in (*before.reference.cases, *after.reference.cases)] == [None] * 4, "both decode greedily"
    assert result.reference.cases[0].tokens is not None


def test_a_recipe_that_asks_for_it_is_told_where_it_belongs():
    from edgeattn.job import prepare
    from edgeattn.recipe import Recipe

    recipe = Recipe.parse("model: luong_dates\ntarget: onnxruntime\nrewrite: {only: [merge_loop]}\n", "r.yaml")
    pytest.importorskip("torch")
    with pytest.raises(UsageError, match=r"r.yaml:3: 'merge_loop' changes how the model is used.*--also merge_loop"):
        prepare(recipe)


@pytest.mark.torch
@pytest.mark.openvino
@pytest.mark.slow
@pytest.mark.parametrize("name", ["luong_dates", "bahdanau_numbers"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_trained_translators_give_equal_tokens_in_both_forms(name, engine):
    from edgeattn import backends, source, tasks
    from edgeattn.export import export

    found = source.resolve(name)
    exported = export(found.source)
    wired = stage.rewrite(exported, backends.oracle)
    one = stage.rewrite(wired, backends.oracle, only=["merge_loop"])
    assert "undone" not in record(one)
    backend, options = registry.get("backends", engine), Options("cpu", threads=1)
    batch = next(tasks.find(found.task).test(40, 40))
    sessions = {g: backend.load(m, options) for g, m in wired.graphs.items()}
    theirs = decode.run(sessions, wired.wiring, batch.feeds)["tokens"]
    ours = backend.load(one.graphs["main"], options).run({n: batch.feeds[n] for n in ("src", "src_mask")})["tokens"]
    np.testing.assert_array_equal(ours, theirs)


def test_a_program_whose_input_is_called_tokens_is_left_alone():
    encoder = graph(
        "(int64[batch] tokens) => (float[batch,1] m) { f = Cast <to = 1> (tokens)  m = Unsqueeze(f, one) }",
        one=np.array([1], np.int64),
    )
    source = _loop_samples.wired()
    program = Program({"encoder": encoder, "step": source.graphs["step"]}, source.wiring)
    (miss,) = RULE.apply(program).misses
    assert miss.reason == "a program input is called 'tokens', as the decoded tokens are"
    assert isinstance(program.graphs["encoder"], onnx.ModelProto)


def test_asked_for_with_the_rule_that_undoes_it_each_is_done_once():
    source = draw_cases(_loop_samples.stacked())
    result = stage.rewrite(source, open_plain, also=["split_loop", "merge_loop"])
    counts = {r["rule"]: r["count"] for r in result.history[-1].notes["rules"]}
    assert (counts["split_loop"], counts["hoist_keys"], counts["merge_loop"]) == (1, 1, 1)
    x = np.random.default_rng(2).standard_normal((3, 4, 4)).astype(np.float32)
    whole = open_plain(source)["main"].run({"x": x})["tokens"]
    np.testing.assert_array_equal(open_plain(result)["main"].run({"x": x})["tokens"], whole.T)
