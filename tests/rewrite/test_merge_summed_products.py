"""merge_summed_products: what of a sum it takes, and what it leaves standing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgeattn import registry
from edgeattn.program import Program
from edgeattn.rewrite import _apply
from edgeattn.rewrite._sample import graph

pytestmark = pytest.mark.onnxruntime
HEAD = "(float[batch,5] x, float[batch,4] h, float[batch,6] z) => (float[batch,6] y"
WEIGHTS = {"w": (5, 6), "r": (4, 6)}


def merged(text: str, **weights: object) -> Program:
    source = Program({"main": graph(text, **{**WEIGHTS, **weights})})
    return _apply.apply(registry.get("rewrite", "merge_summed_products"), source).program


def kinds(program: Program) -> dict[str, int]:
    return dict(Counter(node.op_type for node in program.graphs["main"].graph.node))


def test_biases_anywhere_in_the_sum_go_into_the_gemm_and_the_other_term_is_added_behind() -> None:
    body = "a = MatMul(x, w)  s = Add(z, a)  t = Add(s, c)  b = Gemm(h, r, d)  y = Add(t, b)"
    program = merged(f"{HEAD}) {{ {body} }}", c=np.full(6, 2, np.float32), d=np.full(6, 3, np.float32))
    assert kinds(program) == {"Concat": 1, "Gemm": 1, "Add": 1}
    stored = {t.name: t for t in program.graphs["main"].graph.initializer}
    gemm = next(n for n in program.graphs["main"].graph.node if n.op_type == "Gemm")
    assert list(np.frombuffer(stored[gemm.input[2]].raw_data, np.float32)) == [5.0] * 6


def test_a_product_that_somebody_else_reads_is_no_part_of_it() -> None:
    program = merged(f"{HEAD}, float[batch,6] t) {{ a = MatMul(x, w)  b = MatMul(h, r)  y = Add(a, b)  t = Tanh(a) }}")
    assert kinds(program) == {"MatMul": 2, "Add": 1, "Tanh": 1}
