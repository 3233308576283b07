"""Products of overlapping values: what is put where, and what is left alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgeattn import registry
from edgeattn.graphs import GraphIndex
from edgeattn.program import Program
from edgeattn.rewrite import _apply
from edgeattn.rewrite._sample import graph

pytestmark = pytest.mark.onnxruntime

RULE = registry.get("rewrite", "merge_overlapping_products")
HEAD = "(float[batch,2] s, float[batch,1] e) => (float[batch,2] q, float[batch,3] g"


def merged(text: str, **weights: object) -> Program:
    return _apply.apply(RULE, Program({"main": graph(text, **weights)})).program


def kinds(program: Program) -> dict[str, int]:
    return dict(Counter(node.op_type for node in program.graphs["main"].graph.node))


def test_rows_that_a_product_does_not_read_are_zeros() -> None:
    a, b = np.array([[1, 2], [3, 4]], np.float32), np.arange(5, 14, dtype=np.float32).reshape(3, 3)
    program = merged(f"{HEAD}) {{ q = MatMul(s, a)  j = Concat <axis = 1> (s, e)  g = Gemm(j, b, c) }}",
                     a=a, b=b, c=np.full(3, 7, np.float32))  # fmt: skip
    index = GraphIndex(program.graphs["main"])
    gemm = next(n for n in program.graphs["main"].graph.node if n.op_type == "Gemm")
    assert index.constant(gemm.input[1]).tolist() == [[1, 2, 5, 6, 7], [3, 4, 8, 9, 10], [0, 0, 11, 12, 13]]
    assert index.constant(gemm.input[2]).tolist() == [0, 0, 7, 7, 7]


def test_values_joined_in_another_order_keep_their_own_rows() -> None:
    program = merged(
        f"{HEAD}) {{ i = Concat <axis = 1> (e, s)  q = MatMul(i, a)  j = Concat <axis = 1> (s, e)  g = MatMul(j, b) }}",
        a=np.array([[1, 2], [3, 4], [5, 6]], np.float32), b=np.zeros((3, 3), np.float32),
    )  # fmt: skip
    index = GraphIndex(program.graphs["main"])
    gemm = next(n for n in program.graphs["main"].graph.node if n.op_type == "Gemm")
    weight = index.constant(gemm.input[1])
    rows = (
        [[1, 2], [3, 4], [5, 6]]
        if list(index.producer[gemm.input[0]].input) == ["e", "s"]
        else [[3, 4], [5, 6], [1, 2]]
    )
    assert weight[:, :2].tolist() == rows


@pytest.mark.parametrize(
    "body",
    [
        "j = Concat <axis = 1> (s, e)  q = MatMul(j, w)  g = MatMul(j, b)",  # one value: for merge_projections
        "t = Tanh(s)  q = MatMul(t, a)  j = Concat <axis = 1> (s, e)  g = MatMul(j, b)",  # another value
        "j = Concat <axis = 1> (s, s)  k = Gemm(j, d)  q = MatMul(s, a)  g = Tanh(k)",  # a value joined twice
    ],
)
def test_what_does_not_overlap_or_reads_a_value_twice_is_left_alone(body) -> None:
    weights = {"a": (2, 2), "w": (3, 2), "b": (3, 3), "d": (4, 3)}
    program = merged(f"{HEAD}) {{ {body} }}", **{n: w for n, w in weights.items() if f", {n})" in body})
    assert "Split" not in kinds(program)
