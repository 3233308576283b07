"""Decoders that loop inside their graph, as exporters write them, become an encoder and a step that decode the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from edgeattn import decode, registry
from edgeattn import rewrite as stage
from edgeattn.program import Program
from edgeattn.rewrite import _check, _loop_samples
from edgeattn.rewrite._loop_control import Greedy
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime
RULE = registry.get("rewrite", "split_loop")


def rewritten(model: onnx.ModelProto | Program, **options):
    source = draw_cases(model if isinstance(model, Program) else Program({"main": model}))
    return source, stage.rewrite(source, open_plain, **{"also": ["split_loop"], **options})


def record(program, name="split_loop"):
    return next(r for r in program.history[-1].notes["rules"] if r["rule"] == name)


def reason(program) -> str:
    (miss,) = RULE.apply(program).misses
    return miss.reason


@pytest.mark.torch
def test_a_scripted_while_loop_decodes_what_pytorch_does_and_its_keys_are_hoisted():
    torch = pytest.importorskip("torch")
    from tests.rewrite import loops

    _, result = rewritten(loops.scripted(loops.While, ["tokens"]))
    stop = result.wiring.stop
    assert (stop.start, stop.end, stop.max_steps) == (loops.START, loops.END, loops.STEPS)
    assert record(result)["count"] == record(result, "hoist_keys")["count"] == 1
    operators = {n.op_type for n in result.graphs["step"].graph.node}
    assert not operators & {"Loop", "If", "Where", "Or", "ArgMax", "Shape"}, "the loop's bookkeeping is decode's"
    src = np.random.default_rng(0).integers(0, 11, (4, 6))
    with torch.inference_mode():
        expected = loops.built(loops.While)(torch.from_numpy(src)).numpy()
    assert len({row.tolist().count(loops.END) for row in expected}) > 1, "rows end at different steps"
    tokens = decode.run(open_plain(result), result.wiring, {"src": src})["tokens"]
    np.testing.assert_array_equal(tokens, expected)


@pytest.mark.torch
def test_a_scripted_loop_over_given_tokens_becomes_a_program_that_is_forced_to_them():
    torch = pytest.importorskip("torch")
    from tests.rewrite import loops

    _, result = rewritten(loops.scripted(loops.Forced, ["logits"]))
    assert "'target' is given as the tokens to force" in record(result)["note"]
    rng = np.random.default_rng(0)
    src, target = rng.integers(0, 11, (3, 6)), rng.integers(0, loops.VOCABULARY, (3, 4))
    with torch.inference_mode():
        expected = loops.built(loops.Forced)(torch.from_numpy(src), torch.from_numpy(target)).numpy()
    logits = decode.run(open_plain(result), result.wiring, {"src": src}, target)["logits"]
    assert _check.compare(expected, logits)[0] == ""


@pytest.mark.torch
@pytest.mark.slow
def test_the_dynamo_exporters_while_loop_is_split_too():
    pytest.importorskip("torch")
    from tests.rewrite import loops

    source, result = rewritten(loops.traced(loops.HigherOrderWhile, ["ids"]))
    assert "'ids' is now 'tokens', ends where every row has ended" in record(result)["note"]
    assert record(result, "hoist_keys")["count"] == 1
    src = np.random.default_rng(0).integers(0, 11, (4, 6))
    whole = open_plain(source)["main"].run({"src": src})["ids"]
    tokens = decode.run(open_plain(result), result.wiring, {"src": src})["tokens"]
    np.testing.assert_array_equal(tokens, whole[:, : tokens.shape[1]])
    assert (whole[:, tokens.shape[1] :] == loops.END).all()


@pytest.mark.torch
@pytest.mark.slow
def test_the_dynamo_exporters_scan_is_split_too():
    pytest.importorskip("torch")
    from tests.rewrite import loops

    _, result = rewritten(loops.traced(loops.HigherOrderScan, ["logits", "attention"], dynamic=False))
    assert result.wiring.stop.emits == "step.logits"
    assert record(result)["max_abs"] < 1e-6  # one step's operators on the same numbers


@pytest.mark.torch
@pytest.mark.slow
def test_an_unrolled_decoder_is_told_to_export_its_step():
    pytest.importorskip("torch")
    from tests.rewrite import loops

    program = Program({"main": loops.traced(loops.Unrolled, ["tokens"])})
    assert "its decoder was unrolled 5 times" in reason(program)
    assert "export one step instead, see docs/decoders.md" in reason(program)


@pytest.mark.parametrize("name", ["stacked", "concatenated", "buffered"])
def test_however_tokens_are_kept_start_end_and_bound_are_found(name):
    split = RULE.apply(getattr(_loop_samples, name)()).program
    stop = split.wiring.stop
    assert (stop.start, stop.end, stop.max_steps) == (0, 1, 6)
    assert list(split.graphs) == ["encoder", "step"]


def test_a_loop_without_an_end_token_never_ends_early_and_its_counter_is_state():
    split = RULE.apply(_loop_samples.counted()).program
    assert (split.wiring.stop.end, split.wiring.stop.max_steps) == (-1, 6)
    assert {"step.i", "step.h"} == set(split.wiring.state)


def test_a_loop_that_runs_on_after_the_end_is_cut_there():
    always = "go = Identity(going)"
    program = _loop_samples.stacked(going=always)
    source, result = rewritten(program, only=["split_loop"])
    assert record(result)["count"] == 1
    assert "undone" not in record(result)
    feeds = source.reference.cases[1].feeds
    whole = open_plain(source)["main"].run(feeds)
    ours = decode.run(open_plain(result), result.wiring, feeds)
    steps = ours["tokens"].shape[1]
    np.testing.assert_array_equal(ours["tokens"].T, whole["tokens"][:steps])
    assert _check.compare(whole["attention"][:steps], ours["attention"])[0] == ""


def test_what_is_seen_otherwise_from_outside_is_said():
    assert RULE.apply(_loop_samples.concatenated()).note == "'scores' has its steps on axis 0, was 1"
    assert RULE.apply(_loop_samples.stacked()).note == "'tokens', (batch, steps), was (steps, batch)"


def test_unmasked_rows_do_no_harm_where_there_is_one_row_only():
    fixed = stage.rewrite(draw_cases(_loop_samples.unmasked()), open_plain, sizes={"batch": 1}, only=["fix_sizes"])
    split = stage.rewrite(fixed, open_plain, only=["split_loop"])
    assert record(split)["count"] == 1
    assert "undone" not in record(split)


def test_without_being_asked_for_it_says_that_it_would_fit():
    _, result = rewritten(_loop_samples.stacked(), also=[])
    assert result.wiring is None
    assert record(result)["note"].endswith("ask for it with --also split_loop")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (_loop_samples.unmasked, "it does not feed and stop as the decode loop does"),
        (_loop_samples.twice, "the graph has 2 Loop or Scan, expected one"),
        (_loop_samples.unrolled, "its decoder was unrolled 4 times ('table' is looked up 4 times"),
        (
            lambda: _loop_samples.stacked(outputs="int64[steps,batch] tokens, float[batch,4] h9"),
            "output 'h9' is the state after the last step",
        ),
        (
            lambda: _loop_samples.stacked(outputs="int64[steps,batch] tokens, float[batch,source,4] memory"),
            "output 'memory' is made from 'x' outside the loop",
        ),
        (
            lambda: _loop_samples.stacked(outputs="float[steps,batch,source] attention", going="go = Identity(going)"),
            "it runs on after every row has ended, and gives no tokens to tell when",
        ),
    ],
)
def test_a_loop_that_is_no_decode_loop_is_left_alone_and_says_why(program, said):
    source = program()
    assert RULE.apply(source).program is source
    assert reason(source).startswith(said)


def test_a_bound_that_follows_the_input_is_no_wiring():
    program = _loop_samples.stacked()
    model = program.graphs["main"]
    trips = next(n for n in model.graph.node if "trips" in n.output)
    model.graph.node.remove(trips)
    size = onnx.helper.make_node("Shape", ["x"], ["size"], start=1, end=2)
    bound = onnx.helper.make_node("Squeeze", ["size"], ["trips"])
    for place, node in enumerate((size, bound)):
        model.graph.node.insert(place, node)
    assert reason(program) == "its number of steps follows its inputs; a wiring holds one number"


def test_the_loop_back_from_a_merged_program_is_the_program_again():
    source = draw_cases(_loop_samples.wired())
    merged = stage.rewrite(source, open_plain, only=["merge_loop"])
    again = stage.rewrite(merged, open_plain, only=["split_loop"])
    assert (again.wiring.stop.start, again.wiring.stop.end, again.wiring.stop.max_steps) == (0, 1, 6)
    for case in source.reference.cases:
        ours = decode.run(open_plain(again), again.wiring, case.feeds)
        theirs = decode.run(open_plain(source), source.wiring, case.feeds)
        np.testing.assert_array_equal(ours["tokens"], theirs["tokens"])
        assert _check.compare(theirs["logits"], ours["logits"])[0] == ""


def test_a_wrong_reading_of_the_loop_is_undone_by_the_numbers(monkeypatch):
    from edgeattn.rewrite import _loop_plan

    real = _loop_plan.make

    def wrong(model):
        plan = real(model)
        return replace(plan, greedy=Greedy(3, plan.greedy.end, plan.greedy.max_steps))

    monkeypatch.setattr(_loop_plan, "make", wrong)
    source, result = rewritten(_loop_samples.stacked(), only=["split_loop"])
    assert "undone" in record(result)
    assert result.digest() == source.digest()
