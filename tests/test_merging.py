"""decoding: graph and auto: INT8 steps become one graph, judged by PyTorch through its steps, and told truly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeattn import backends, decode, graphs, merging, registry
from edgeattn import rewrite as stage
from edgeattn.backends import Options
from edgeattn.errors import Unsupported, UsageError
from edgeattn.harness.limits import Limits
from edgeattn.harness.precision import audit
from edgeattn.job import refuse_decoding
from edgeattn.program import Program, Reference, Stop, Wiring
from edgeattn.quantize import Settings, quantize
from edgeattn.rewrite import Choice, _loop_samples
from edgeattn.rewrite._sample import graph
from edgeattn.tasks import Batch, find
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime
ORT = registry.get("backends", "onnxruntime")
INT8 = Options("cpu", "int8", threads=1)


def wired() -> Program:
    """A decoder wide enough for INT8: h' = tanh(E[token] + h W), logits = h' U; judged on cases called real."""
    encoder = graph("(float[batch,32] x) => (float[batch,32] first) { first = Tanh(x) }")
    step = graph(
        """(int64[batch] token, float[batch,32] h) => (float[batch,20] logits, float[batch,32] h_out) {
            e = Gather(table, token)  r = MatMul(h, w)  s = Add(e, r)  h_out = Tanh(s)
            logits = MatMul(h_out, output) }""",
        table=(20, 32), w=(32, 32), output=(32, 20),
    )  # fmt: skip
    wiring = Wiring({"step.h": "encoder.first"}, {"step.h": "step.h_out"}, Stop("step.token", "step.logits", 0, 1, 7))
    drawn = draw_cases(Program({"encoder": encoder, "step": step}, wiring))
    answered = []
    for case in drawn.reference.cases:
        tokens = np.random.default_rng(0).integers(2, 20, (case.samples, 5))
        outputs = decode.run(open_plain(drawn), wiring, case.feeds, tokens)
        answered.append(replace(case, name=f"real-{case.name}", tokens=tokens, outputs=outputs))
    return replace(drawn, reference=Reference("pytorch eager", tuple(answered)))


def packed() -> Program:
    return quantize(wired(), "int8-weights", backends.oracle, (), Settings(qdq=ORT.qdq))


def test_int8_steps_become_one_graph_whose_tokens_are_those_of_the_decode_loop() -> None:
    steps = packed()
    one, said = merging.settled(steps, "graph", ORT, INT8)
    assert one.wiring is None
    assert said.startswith("decoding=graph took one graph: decodes greedily, at most 7 tokens")
    assert [record.name for record in one.history] == ["quantize", "merge"]
    feeds = {"x": np.random.default_rng(3).standard_normal((3, 32)).astype(np.float32)}
    theirs = decode.run({g: ORT.load(m, INT8) for g, m in steps.graphs.items()}, steps.wiring, feeds)
    np.testing.assert_array_equal(ORT.load(one.graphs["main"], INT8).run(feeds)["tokens"], theirs["tokens"])


def test_what_runs_inside_the_loop_is_counted_and_in_int8(tmp_path) -> None:
    steps = packed()
    one, _ = merging.settled(steps, "graph", ORT, INT8)
    work = graphs.macs_by_node(one.graphs["main"])
    assert sum(work.values()) == sum(graphs.macs_by_node(steps.graphs["step"]).values()) == 32 * 32 + 32 * 20
    seen = audit("int8", ORT.compile(one, INT8, tmp_path).effective)
    assert seen.share == 1.0
    assert audit("int8", ORT.compile(one, replace(INT8, precision="fp32"), tmp_path).effective).share == 0.0


def test_pytorch_judges_the_steps_and_they_judge_what_is_decoded() -> None:
    steps = packed()
    one, _ = merging.settled(steps, "graph", ORT, INT8)
    apart = {g: ORT.load(m, INT8) for g, m in steps.graphs.items()}
    whole = ORT.load(one.graphs["main"], INT8)
    judged = merging.judge(steps, apart, {"main": whole}, Limits.of("int8"))
    assert set(judged.outputs) == {"logits", "h_out", "logits, decoded", "tokens, decoded"}
    assert {output.verdict for output in judged.outputs.values()} == {"pass"}
    loop = next(n for n in one.graphs["main"].graph.node if n.op_type == "Loop")
    wrong = ORT.load(_with_fewer_trips(one, loop.input[0]).graphs["main"], INT8)
    fewer = merging.judge(steps, apart, {"main": wrong}, Limits.of("int8"))
    assert fewer.outputs["tokens, decoded"].verdict == "fail"
    assert fewer.outputs["logits"].verdict == "pass"


def _with_fewer_trips(program: Program, name: str) -> Program:
    from onnx import ModelProto, numpy_helper

    model = ModelProto()
    model.CopyFrom(program.graphs["main"])
    (trips,) = (t for t in model.graph.initializer if t.name == name)
    trips.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(trips) - 5, name))
    return replace(program, graphs={"main": model})


def test_auto_takes_what_is_measured_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = Choice(False, "onnxruntime:cpu", 0.9, (0.8, 0.95), "slower")
    monkeypatch.setattr(merging.choose, "by_latency", lambda *args, **options: lambda before, after: choice)
    steps = packed()
    kept, said = merging.settled(steps, "auto", ORT, INT8)
    assert kept is steps
    assert said == "decoding=auto took steps: onnxruntime:cpu 0.900x (0.800 to 0.950): slower"


def test_auto_leaves_the_steps_where_an_engine_does_not_tell_what_a_loop_runs_in() -> None:
    steps = packed()
    kept, said = merging.settled(steps, "auto", registry.get("backends", "openvino"), INT8)
    assert kept is steps
    assert said == "decoding=auto took steps: openvino does not tell in what precision a Loop's body runs"


def test_steps_that_cannot_be_merged_are_an_error_where_one_graph_was_asked_for() -> None:
    odd = draw_cases(_loop_samples.wired(alignment="tokens"))
    with pytest.raises(Unsupported, match=r"decoding: its steps do not become one graph: .*called 'tokens'"):
        merging.settled(odd, "graph", ORT, Options("cpu", threads=1))


def test_what_decodes_nothing_or_is_scored_on_given_text_is_refused_before_any_work() -> None:
    with pytest.raises(UsageError, match=r"r\.yaml:4: the model decodes nothing: it is one graph"):
        refuse_decoding(wired=False, task=None, where="r.yaml:4")
    dates = find("dates")
    refuse_decoding(wired=True, task=dates, where="r.yaml:4")
    given = Batch({"x": np.zeros((1, 2))}, np.zeros(1), np.zeros((1, 2), np.int64))
    scored = replace(dates, test=lambda samples, batch: iter([given]))
    with pytest.raises(UsageError, match="task 'dates' scores given text, and a graph that decodes takes no tokens"):
        refuse_decoding(wired=True, task=scored, where="r.yaml:4")


def test_the_commands_time_the_two_forms_in_the_precision_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    import edgeattn.cli.app  # noqa: F401 (the commands import each other from there)
    from edgeattn import choose
    from edgeattn.cli import stages

    asked = []
    monkeypatch.setattr(choose, "by_latency", lambda name, options: asked.append(options.precision))
    stages._chooser("onnxruntime", 1, packed())
    stages._chooser("onnxruntime", 1, wired())
    assert asked == ["int8", "fp32"]


def test_two_graphs_with_nodes_of_one_name_stay_apart_in_the_merged_one() -> None:
    one = stage.rewrite(wired(), open_plain, only=["merge_loop"])
    model = one.graphs["main"]
    (body,) = (inner for _, inner in graphs.bodies(model))
    names = [n.name for m in (model, body) for n in m.graph.node if n.name]
    assert len(names) == len(set(names))


@pytest.mark.torch
@pytest.mark.slow
def test_a_recipe_scores_the_task_through_the_one_graph(tmp_path) -> None:
    from edgeattn.pipeline import run
    from edgeattn.recipe import Recipe

    recipe = Recipe.parse(
        "model: bahdanau_numbers\ntarget: onnxruntime\nprecision: int8\ndecoding: graph\n"
        "quantize: {scheme: int8-weights}\nrewrite: {measure: false}\nlatency: {pairs: 20, threads: 1}\n"
        "gates: {task_drop: 0.005, int8_share: 0.5}\n"
    )
    report = run(recipe, tmp_path / "run")
    assert (report.parity.outputs["tokens, decoded"].verdict, report.task.verdict) == ("pass", "pass")
    assert [s.name for s in report.stages] == ["export", "rewrite", "quantize", "merge", "compile"]
    assert {r.rule for r in report.rewrites if r.count} >= {"merge_loop", "hoist_keys"}
