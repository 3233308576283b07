"""What a rewrite tells of itself: where it happened, in module names, and which attention it changed."""

from __future__ import annotations

import onnx
import pytest
from onnx import helper

from edgeattn import rewrite as stage
from edgeattn.errors import UnknownName
from edgeattn.origin import module_of
from edgeattn.program import Program
from edgeattn.rewrite import _story
from edgeattn.rewrite._sample import graph, i64
from tests.rewrite.engine import draw_cases, open_plain

SCOPES = "pkg.torch.onnx.name_scopes"


def node(name: str = "n", reads: str = "x", **metadata: str) -> onnx.NodeProto:
    made = helper.make_node("Relu", [reads], [f"{name}_out"], name=name)
    for key, value in metadata.items():
        made.metadata_props.add(key=key, value=value)
    return made


def inside(name: str, module: str, reads: str = "x") -> onnx.NodeProto:
    return node(name, reads, **{SCOPES: str(["", module, "relu"])})


def test_a_node_tells_its_module_in_the_words_of_every_exporter():
    assert module_of(node(**{SCOPES: "['', 'blocks', 'blocks.0', 'relu']"})) == "blocks.0"
    assert module_of(node(namespace=": net.Net/blocks.0: net.Block/relu: aten.relu.default")) == "blocks.0"
    assert module_of(node("/layer1/layer1.0/conv1/Conv")) == "layer1.0.conv1"
    assert module_of(node("/layer1/layer1.0/Relu")) == "layer1.0"


@pytest.mark.parametrize(
    "told",
    [
        node(),
        node("/Relu"),
        node(**{SCOPES: "['', 'relu']"}),
        node(**{SCOPES: "not a list"}),
        node(**{SCOPES: "['', '_empty_nn_module_stack_from_metadata_hook', 'relu']"}),
        node(namespace=""),
    ],
)
def test_a_node_that_tells_no_module_has_none(told):
    assert module_of(told) == ""


def test_nodes_that_feed_each_other_are_one_place_and_its_name_is_the_module_around_them():
    group = [inside("a", "net.gate.fc1"), inside("b", "net.gate.fc2", "a_out"), inside("c", "net.head")]
    assert _story.places({"main": group}) == ["net.gate", "net.head"]


def test_a_place_over_several_modules_names_each_and_one_without_any_its_last_node():
    shared = [
        node("size"),
        inside("a", "left", "size_out"),
        inside("b", "right", "size_out"),
        inside("c", "left.in", "a_out"),
    ]
    assert _story.places({"main": shared}) == ["left", "right"]
    assert _story.places({"main": [node("first"), node("second", "first_out")]}) == ["second"]


@pytest.mark.onnxruntime
def test_attention_is_told_with_the_rules_that_changed_it_and_one_that_none_changed_without():
    model = graph(
        """(float[batch,8,6,6] x) => (float[batch,8,6,6] y, float[batch,8,6,6] z) {
            a = GlobalAveragePool(x)
            f = Flatten(a)
            h = Gemm <transB = 1> (f, w1)
            r = Relu(h)
            e = Gemm <transB = 1> (r, w2)
            s = Sigmoid(e)
            g = Unsqueeze(s, spatial)
            y = Mul(x, g)
            b = GlobalAveragePool(x)
            c = Conv(b, w3)
            k = Relu(c)
            d = Conv(k, w4)
            q = Sigmoid(d)
            z = Mul(x, q) }""",
        w1=(4, 8), w2=(8, 4), w3=(4, 8, 1, 1), w4=(8, 4, 1, 1), spatial=i64(2, 3),
    )  # fmt: skip
    notes = stage.rewrite(draw_cases(Program({"main": model})), open_plain).history[-1].notes
    assert [(a["kind"], a["gate"], a["rules"]) for a in notes["attention"]] == [
        ("se", "s", ["lower_fc_to_conv"]),
        ("se", "q", []),
    ]
    assert notes["parameters"] == {"main": [128, 128]}
    assert notes["macs"] == {"main": [128, 128]}


@pytest.mark.onnxruntime
def test_a_survey_looks_at_each_rule_after_the_ones_before_it():
    model = graph(
        """(float[batch,8,6,6] x) => (float[batch,8,6,6] y) {
            a = ReduceMean(x, hw)
            f = Flatten(a)
            h = Gemm <transB = 1> (f, w1)
            s = Sigmoid(h)
            g = Unsqueeze(s, hw)
            y = Mul(x, g) }""",
        w1=(8, 8),
        hw=i64(2, 3),
    )
    source = Program({"main": model})
    digest = source.digest()
    looks = {look.rule: look for look in stage.survey(source)}
    assert list(looks) == list(stage.ORDER)
    assert looks["canonicalise_global_pool"].fires == 1
    assert looks["lower_fc_to_conv"].fires == 1
    assert source.digest() == digest
    assert [look.rule for look in stage.survey(source, ["remove_expand"])] == ["remove_expand"]
    with pytest.raises(UnknownName, match="did you mean"):
        stage.survey(source, ["remove_expnd"])


@pytest.mark.onnxruntime
def test_a_survey_of_a_rule_that_raises_says_what_it_raised(monkeypatch):
    def fail(*given):
        raise ValueError("no such axis")

    monkeypatch.setattr(stage._named("remove_expand"), "match", fail, raising=False)
    model = graph("(float[batch,1] x) => (float[batch,5] y) { y = Expand(x, size) }", size=i64(1, 5))
    (look,) = stage.survey(Program({"main": model}), ["remove_expand"])
    assert (look.fires, look.failed) == (0, "raised ValueError: no such axis")


def test_a_miss_names_the_module_of_its_culprit():
    model = graph("(float[batch,1] x) => (float[batch,5] y) { y = Expand(x, size) }", size=i64(1, 5))
    model.graph.node[0].metadata_props.add(key=SCOPES, value="['', 'head.grow', 'expand']")
    (miss,) = stage.why_not("remove_expand", Program({"main": model}))
    assert miss.module == "head.grow"
