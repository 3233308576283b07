"""Luong and Bahdanau attention as anybody writes and exports it, in a decoder: nothing constant is left in the step."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgeattn import rewrite as stage
from edgeattn.program import Program, Stop, Wiring
from edgeattn.recognise import recognise
from edgeattn.rewrite._loop import HEAVY, Loop, handed_over
from tests.rewrite.engine import draw_cases, open_plain
from tests.spellings import EXPORTERS, Unexportable, family

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]


def is_step(spelling) -> bool:
    """One query against a memory; all steps at once are no step."""
    ranks = {i.name: len(i.shape) for i in spelling.inputs}
    return ranks.get("query") == 2 and "memory" in ranks and not spelling.static


SPELLINGS = [s for s in family("luong", "bahdanau") if is_step(s)]
# One of each kind in every run; the others, at a second of exporting each, in the long one.
QUICK = ("luong-general-einsum", "luong-concat-repeat", "luong-general-on-query")


def chosen(spelling, exporter):
    quick = exporter == "dynamo" and spelling.name in QUICK
    return pytest.param(spelling, exporter, id=f"{spelling.name}-{exporter}", marks=() if quick else pytest.mark.long)


CHOSEN = [chosen(s, exporter) for exporter in EXPORTERS for s in SPELLINGS if exporter not in s.not_by]


def looped(model: onnx.ModelProto) -> Program:
    """An attention as the step of a decoder: its query is the state, and what it reads first comes from an encoder."""
    step = onnx.ModelProto()
    step.CopyFrom(model)
    graph = step.graph
    shapes = {v.name: v.type.tensor_type for v in graph.input}
    result, width = graph.output[0].name, shapes["query"].shape.dim[-1].dim_value
    del graph.output[:]
    table = np.linspace(-1, 1, 5 * width, dtype=np.float32).reshape(5, width)
    graph.initializer.append(onnx.numpy_helper.from_array(table, "their_table"))
    graph.initializer.append(onnx.numpy_helper.from_array(table.T.copy(), "their_output"))
    graph.node.append(onnx.helper.make_node("Gather", ["their_table", "token"], ["e"], name="their_lookup"))
    graph.node.append(onnx.helper.make_node("Add", ["e", result], ["query_out"], name="their_state"))
    graph.node.append(onnx.helper.make_node("MatMul", [result, "their_output"], ["logits"], name="their_logits"))
    batch = shapes["query"].shape.dim[0].dim_param
    graph.input.append(onnx.helper.make_tensor_value_info("token", onnx.TensorProto.INT64, [batch]))
    for name, size in (("logits", 5), ("query_out", width)):
        graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch, size]))
    feeds = {name: f"step.{name}" for name in ("query", "memory", "keys") if name in shapes}
    encoder = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Tanh", [f"x_{name}"], [name], name=f"their_{name}") for name in feeds],
            "encoder",
            [renamed(v, f"x_{v.name}") for v in graph.input if v.name in feeds],
            [v for v in graph.input if v.name in feeds],
        ),
        opset_imports=step.opset_import,
        ir_version=step.ir_version,
    )
    wiring = Wiring(
        {to: f"encoder.{name}" for name, to in feeds.items()},
        {"step.query": "step.query_out"},
        Stop("step.token", "step.logits", 0, 1, 6),
    )
    return Program({"encoder": encoder, "step": step}, wiring)


def with_masks(program: Program) -> Program:
    """Masks that are floats hold 0 and 1, and each row has a valid position."""
    for case in program.reference.cases:
        if "mask" in case.feeds and case.feeds["mask"].dtype.kind == "f":
            case.feeds["mask"][:] = case.feeds["mask"] > 0
            case.feeds["mask"][:, 0] = 1
    return program


def renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy


def constant_products(program: Program) -> list[str]:
    """Products in the step whose result is the same in every step."""
    model = ir.serde.deserialize_model(program.graphs["step"])
    loop = Loop(model.graph, handed_over(model.graph, program.wiring))
    loop.survey()
    return [n.name for n in model.graph if n.op_type in HEAVY and n.outputs[0] in loop.origin]


@pytest.mark.parametrize(("spelling", "exporter"), CHOSEN)
def test_no_product_in_the_step_is_the_same_in_every_step(spelling, exporter):
    try:
        model = spelling.export(exporter, 18 if exporter == "dynamo" else 17).graphs["main"]
    except Unexportable as error:
        pytest.skip(str(error))
    source = with_masks(draw_cases(looped(model)))
    result = stage.rewrite(source, open_plain)  # the numbers are judged inside
    rules = {r["rule"]: r for r in result.history[-1].notes["rules"]}
    assert not [name for name, r in rules.items() if "undone" in r], rules
    assert constant_products(result) == []
    left = [n.op_type for n in result.graphs["step"].graph.node]
    assert "Einsum" not in left
    if "general" in spelling.name or "bahdanau" in spelling.name or "concat" in spelling.name:
        assert any("keys" in edge for edge in result.wiring.feeds), (left, result.wiring.feeds)


def test_a_score_that_a_rule_split_is_still_called_what_its_paper_calls_it():
    """Split over query and key, Luong's concat is the sum that Bahdanau wrote; what it was is in the nodes' origin."""
    spelling = next(s for s in SPELLINGS if s.name == "luong-concat-repeat")
    source = spelling.export("dynamo")
    result = stage.rewrite(source, open_plain)
    fired = [r["rule"] for r in result.history[-1].notes["rules"] if r["count"]]
    assert "split_concat_score" in fired
    before, after = (recognise(program.graphs["main"]) for program in (source, result))
    assert [(a.kind, a.score) for a in before] == [(a.kind, a.score) for a in after] == [("luong", "concat")]
