"""GELU in the words of PyTorch, transformers and GPT-2, read as a polynomial."""

from __future__ import annotations

import pytest

from edgeattn import registry
from edgeattn import rewrite as stage
from edgeattn.program import Program
from edgeattn.rewrite import _apply
from edgeattn.rewrite._sample import f32, graph
from tests.rewrite.engine import draw_cases, open_plain

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "fuse_gelu")
HEAD = "(float[batch,6] x) => (float[batch,6] y)"


def gelu(body, opset=20, **numbers):
    return graph(f"{HEAD} {{ {body} }}", opset=opset, **{name: f32(n) for name, n in numbers.items()})


def test_what_is_half_scaled_before_is_the_gelu_of_the_scaled():
    model = gelu(
        "s = Mul(x, three)  d = Div(s, r)  e = Erf(d)  a = Add(e, one)  h = Mul(s, half)  y = Mul(h, a)",
        three=3.0,
        r=2**0.5,
        one=1.0,
        half=0.5,
    )
    result = _apply.apply(RULE, Program({"main": model})).program.graphs["main"]
    assert [n.op_type for n in result.graph.node] == ["Mul", "Gelu"]


@pytest.mark.parametrize(
    "body",
    [
        "d = Div(x, r)  e = Erf(d)  a = Add(e, one)  h = Mul(x, x)  y = Mul(h, a)",  # x² (1 + erf)
        "d = Div(x, r)  e = Erf(d)  a = Sub(e, one)  h = Mul(x, half)  y = Mul(h, a)",  # erf - 1
        "d = Mul(x, r)  e = Erf(d)  a = Add(e, one)  h = Mul(x, half)  y = Mul(h, a)",  # erf(x √2)
        "d = Div(x, r)  e = Tanh(d)  a = Add(e, one)  h = Mul(x, half)  y = Mul(h, a)",  # a tanh without the cube
    ],
)
def test_what_only_looks_like_a_gelu_is_none(body):
    numbers = {"r": 2**0.5, "one": 1.0, "half": 0.5}
    used = {name: n for name, n in numbers.items() if name in body.replace(")", " ").split()}
    assert _apply.apply(RULE, Program({"main": gelu(body, **used)})).count == 0


def test_the_miss_says_which_opset_to_export():
    program = RULE.near_misses()[0]
    (told,) = stage.why_not("fuse_gelu", program)
    assert told.reason == "Gelu exists from opset 20 on, this graph has 18: export it with --opset 20"


def test_both_forms_survive_the_stage_with_their_numbers():
    for example in RULE.examples():
        result = stage.rewrite(draw_cases(example), open_plain, only=["fuse_gelu"])
        record = result.history[-1].notes["rules"][0]
        assert "undone" not in record
        assert [n.op_type for n in result.graphs["main"].graph.node] == ["Gelu"]
