"""Heads that are flattened, turned and split again: what they are, at every size."""

from __future__ import annotations

import pytest

from edgeattn import registry
from edgeattn.program import Program
from edgeattn.rewrite import _apply
from edgeattn.rewrite._sample import graph, i64

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "canonicalise_key_transpose")


def nodes(program):
    return program.graphs["main"].graph.node


def test_pytorchs_keys_lose_the_shape_chain_too():
    result = _apply.apply(RULE, RULE.examples()[0]).program
    (node,) = nodes(result)
    assert node.op_type == "Transpose"
    assert list(node.attribute[0].ints) == [0, 1, 3, 2]


def test_heads_made_from_a_row_keep_one_reshape():
    result = _apply.apply(RULE, RULE.examples()[2]).program
    kinds = [n.op_type for n in nodes(result)]
    assert kinds.count("Reshape") == 1
    assert kinds.count("Transpose") == 1
    assert kinds[-1] == "Transpose"


def test_a_target_that_copies_a_dimension_keeps_what_it_copies_from():
    model = graph(
        """(float[s,batch,8] x) => (float[batch,p,q,r] y) {
            n = Shape <start = 0, end = 1> (x)  f = Concat <axis = 0> (n, minus, four)  a = Reshape(x, f)
            b = Transpose <perm = [1, 0, 2]> (a)  y = Reshape(b, t) }""",
        minus=i64(-1),
        four=i64(4),
        t=i64(-1, 2, 0, 4),
    )
    outcome = _apply.apply(RULE, Program({"main": model}))
    assert outcome.count == 0
    assert outcome.misses


def test_sizes_that_a_frozen_graph_cannot_take_are_no_proof():
    frozen = graph(
        """(float[batch,2,s,4] k) => (float[p,q,r,z] y) {
            a = Reshape(k, f)  b = Transpose <perm = [0, 2, 1]> (a)  y = Reshape(b, t) }""",
        f=i64(4, 5, 4),
        t=i64(2, 2, 4, 5),
    )
    outcome = _apply.apply(RULE, Program({"main": frozen}))
    assert outcome.count == 0
    assert outcome.misses[0].reason.startswith("its shapes are known at")
