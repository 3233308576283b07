"""lower_einsum beyond its examples: what three operands become, the notation's corners, and sizes that broadcast."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from edgeattn import registry
from edgeattn.program import Program
from edgeattn.rewrite import _apply
from edgeattn.rewrite._sample import graph
from tests.rewrite.engine import open_plain

pytestmark = pytest.mark.onnxruntime
RULE = registry.get("rewrite", "lower_einsum")


def einsum(equation, *shapes, result, opset=18):
    names = "abc"[: len(shapes)]
    inputs = ", ".join(f"float[{', '.join(map(str, s))}] {n}" for n, s in zip(names, shapes, strict=True))
    text = f'({inputs}) => (float[{result}] y) {{ y = Einsum <equation = "{equation}"> ({", ".join(names)}) }}'
    return Program({"main": graph(text, opset=opset)})


def ran(program, arrays):
    return open_plain(program)["main"].run(dict(zip("abc", arrays, strict=False)))["y"]


@pytest.mark.parametrize("opset", [12, 13, 18, 23])
@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bd,bsd->bs", [(2, 3), (2, 4, 3)]),
        ("bsd,bd->sb", [(2, 4, 3), (2, 3)]),
        ("bds,bd->bs", [(2, 3, 4), (2, 3)]),
        ("d,bsd->bs", [(3,), (2, 4, 3)]),
        ("de,bse->bsd", [(3, 5), (2, 4, 5)]),
        ("bt,bs->bts", [(2, 3), (2, 4)]),
        ("i,i", [(3,), (3,)]),
        ("ij,jk", [(2, 3), (3, 4)]),
        ("bd,de,bse->bs", [(2, 3), (3, 5), (2, 4, 5)]),
        ("bsa,a,b->bs", [(2, 4, 3), (3,), (2,)]),
    ],
)
def test_numpy_says_the_same(equation, shapes, opset):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    expected = np.einsum(equation, *arrays)
    outcome = lowered(einsum(equation, *shapes, result=", ".join(map(str, expected.shape)), opset=opset))
    assert outcome.count == 1, [str(m) for m in outcome.misses]
    # float32 sums over at most 15 terms of order 1
    np.testing.assert_allclose(ran(outcome.program, arrays), expected, rtol=1e-5, atol=1e-5)


def lowered(program):
    return _apply.apply(RULE, program)


def test_three_operands_project_the_query_and_never_the_memory():
    result = lowered(einsum("bd,de,bse->bs", ("batch", 3), (3, 5), ("batch", "s", 5), result="batch, s")).program
    first = next(n for n in result.graphs["main"].graph.node if n.op_type == "MatMul")
    assert list(first.input) == ["a", "b"]


def test_a_score_does_not_transpose_the_memory():
    result = lowered(einsum("bd,bsd->bs", ("batch", 3), ("batch", "s", 3), result="batch, s")).program
    assert Counter(n.op_type for n in result.graphs["main"].graph.node) == {"Unsqueeze": 1, "MatMul": 1, "Squeeze": 1}


def test_a_letter_that_would_be_broadcast_is_left_alone():
    outcome = lowered(einsum("bs,bs->b", (2, 1), (2, 3), result="2"))
    assert outcome.count == 0
    assert outcome.misses[0].reason == "'s' has different sizes in different operands"
