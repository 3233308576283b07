"""lower_einsum: an Einsum becomes the MatMul or Mul that it stands for.

What: an Einsum of two or three operands, as attention code writes it, becomes Transpose, MatMul and Squeeze, or, where
nothing is summed, a broadcasting Mul. Three operands are joined two at a time, the pair with the smallest result first:
``bd,de,bse->bs`` projects the query and never the memory.

Why: engines run Einsum by generic code; quantizers skip it; and no other rule sees a score, keys or a context in it.

Before: Einsum<bd,bsd->bs>(h, H)
After: Squeeze(MatMul(H, Unsqueeze(h)))

    b d ─┐                        b d 1 ─┐
         Einsum ─ b s      ⇒             MatMul ─ b s 1 ─ Squeeze ─ b s
    b s d┘                        b s d ─┘

Safe when: every operand's rank is known and equals its number of letters; no ellipsis and no letter twice in one term;
each pair sums over one letter at most, which both of its operands carry, and each side has one letter of its own at
most (any number where the other side is a matrix). Sums over one letter are added up in another order.
Source: ONNX operator Einsum (opset 12), which takes numpy's notation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from edgeattn.rewrite import _axes
from edgeattn.rewrite._rule import ALLCLOSE, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import graph
from edgeattn.rewrite._view import attr, broadcast, const, dims

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build


@dataclass(frozen=True)
class Step:
    """One product of a pair of operands: their places in the list so far, their letters, and the result's."""

    places: tuple[int, int]
    left: str
    right: str
    result: str

    @property
    def summed(self) -> str:
        """Letters that both have and the result has not."""
        return "".join(c for c in self.left if c in self.right and c not in self.result)

    @property
    def shared(self) -> str:
        """Letters that both have and the result keeps, in its order."""
        return "".join(c for c in self.result if c in self.left and c in self.right)

    def own(self, letters: str) -> str:
        """Letters of one side alone."""
        return "".join(c for c in letters if (c in self.left) != (c in self.right))


class LowerEinsum(GraphRule):
    """Einsum as MatMul or Mul."""

    name = "lower_einsum"
    exactness = ALLCLOSE
    anchors = ("Einsum",)
    opsets = (12, 26)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the Einsum."""
        terms, result = _parsed(attr(node, "equation", ""))
        if result is None or len(terms) != len(node.inputs):
            return miss(f"'{attr(node, 'equation', '')}' has an ellipsis or an output that cannot be told", node, 1)
        for term, value in zip(terms, node.inputs, strict=True):
            shape = dims(value)
            if shape is None or len(shape) != len(term):
                return miss(f"'{term}' names {len(term)} dimensions of {shape}", node, 1)
            if len(set(term)) < len(term):
                return miss(f"'{term}' takes a diagonal", node, 1)
        if len(terms) not in (2, 3):
            return miss(f"it joins {len(terms)} operands, not two or three", node, 1)
        dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
        if dtype in (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16):
            return miss(f"no opset has a MatMul of {dtype}", node, 2)
        sizes = _sizes(terms, node.inputs)
        if isinstance(sizes, str):
            return miss(f"'{sizes}' has different sizes in different operands", node, 2)
        plan = _plan(terms, result)
        for step in plan:
            reason = _obstacle(step)
            if reason:
                return miss(f"{step.left},{step.right}->{step.result}: {reason}", node, 2)
        return Match(node, (node,), {"plan": plan, "opset": view.opset})

    def rewrite(self, match: Match, build: Build) -> None:
        """One product a step; the last one's letters are the result's."""
        values: list[ir.Value | None] = list(match.anchor.inputs)
        for step in match.parts["plan"]:
            pair = [values[place] for place in step.places]
            made = _product(build, step, pair, match.parts["opset"])
            values = [v for place, v in enumerate(values) if place not in step.places] + [made]
        assert values[-1] is not None
        build.replace(match.anchor.outputs[0], values[-1])

    def examples(self) -> list[Program]:
        """Score, context and keys; all steps at once; a matrix on the left; three operands; v as a vector; no sum."""
        cases = (
            ("bd,bsd->bs", "[batch,4]", "[batch,s,4]", None, "[batch,s]"),
            ("bs,bsd->bd", "[batch,s]", "[batch,s,4]", None, "[batch,4]"),
            ("btd,bsd->bts", "[batch,3,4]", "[batch,s,4]", None, "[batch,3,s]"),
            ("bse,ae->bsa", "[batch,s,4]", None, (5, 4), "[batch,s,5]"),
            ("de,bse->bds", None, "[batch,s,4]", (5, 4), "[batch,5,s]"),
            ("a,bsa", None, "[batch,s,4]", (4,), "[batch,s]"),
            ("bhqk,bkhd->bqhd", "[batch,2,3,s]", "[batch,s,2,4]", None, "[batch,3,2,4]"),
            ("bi,bj->bij", "[batch,2]", "[batch,3]", None, "[batch,2,3]"),
            ("bsd,bs->bds", "[batch,s,4]", "[batch,s]", None, "[batch,4,s]"),
        )
        models = [_einsum(*case) for case in cases]
        bilinear = graph(
            """(float[batch,4] h, float[batch,s,5] m) => (float[batch,s] y) {
                y = Einsum <equation = "bd,de,bse->bs"> (h, w, m) }""",
            w=(4, 5),
        )
        return as_programs(*models, bilinear)

    def near_misses(self) -> list[Program]:
        """An ellipsis; a diagonal; two summed letters; a letter summed in one operand alone; one operand; bytes."""
        one = 'graph (float[batch,4] x) => (float[4,batch] y) { y = Einsum <equation = "bd->db"> (x) }'
        return as_programs(
            _einsum("...d,...d->...", "[batch,s,4]", "[batch,s,4]", None, "[batch,s]"),
            _einsum("bb,bd->bd", "[3,3]", "[3,4]", None, "[3,4]"),
            _einsum("bsd,bsd->b", "[batch,s,4]", "[batch,s,4]", None, "[batch]"),
            _einsum("bsd,b->bd", "[batch,s,4]", "[batch]", None, "[batch,4]"),
            graph(one.removeprefix("graph ")),
            graph('(int8[b,d] x, int8[b,d] z) => (int8[b] y) { y = Einsum <equation = "bd,bd->b"> (x, z) }'),
        )

    def workload(self) -> Program:
        """A Luong score over 200 positions of width 512."""
        return as_programs(_einsum("bd,bsd->bs", "[1,512]", "[1,200,512]", None, "[1,200]"))[0]


def _parsed(equation: str) -> tuple[list[str], str | None]:
    """The terms and the result; None for a result that is not plain letters."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    letters = "".join(terms)
    if not arrow:
        right = "".join(c for c in sorted(set(letters)) if letters.count(c) == 1)
    plain = all(term.isalpha() for term in terms) and (right.isalpha() or not right)
    return terms, right if plain and len(set(right)) == len(right) and set(right) <= set(letters) else None


def _sizes(terms: Sequence[str], values: Sequence[ir.Value | None]) -> dict[str, int] | str:
    """Known sizes by letter, or a letter that would have to be broadcast."""
    found: dict[str, int] = {}
    for term, value in zip(terms, values, strict=True):
        for letter, size in zip(term, dims(value) or (), strict=True):
            if isinstance(size, int) and found.setdefault(letter, size) != size:
                return letter
    return found


def _plan(terms: Sequence[str], result: str) -> list[Step]:
    """Pairs to multiply, the one with the smallest result first."""
    left, steps = list(terms), []
    while len(left) > 1:
        options = []
        for a, b in combinations(range(len(left)), 2):
            others = [t for place, t in enumerate(left) if place not in (a, b)]
            wanted = set(result).union(*others)
            kept = "".join(dict.fromkeys(c for c in left[a] + left[b] if c in wanted))
            options.append(Step((a, b), left[a], left[b], kept if others else result))
        best = min(options, key=lambda step: len(step.result))
        steps.append(best)
        left = [t for place, t in enumerate(left) if place not in best.places] + [best.result]
    return steps


def _obstacle(step: Step) -> str:
    """Why a pair is no single MatMul or Mul, or an empty string."""
    alone = [c for side in (step.left, step.right) for c in step.own(side) if c not in step.result]
    if alone:
        return f"'{alone[0]}' is summed in one operand alone"
    if len(step.summed) > 1:
        return f"it sums over {len(step.summed)} letters at once"
    most = max(len(step.own(step.left)), len(step.own(step.right)))
    least = min(len(step.own(step.left)), len(step.own(step.right)))
    if step.summed and most > 1 and (step.shared or least > 1):
        return "one side has several letters of its own, and no matrix is on the other"
    return ""


def _product(build: Build, step: Step, pair: Sequence[ir.Value | None], opset: int) -> ir.Value:
    a, b = pair
    assert a is not None and b is not None  # noqa: PT018 (Einsum's operands are never left out)
    if not step.summed:
        shaped = [_spread(build, v, t, step.result, opset) for v, t in ((a, step.left), (b, step.right))]
        return build.op("Mul", *shaped, shape=broadcast([dims(v) for v in shaped]))
    straight = _effort(step, step.left, step.right, a, b)
    if _effort(step, step.right, step.left, b, a) < straight:
        return _matmul(build, step, (b, step.right), (a, step.left), opset)
    return _matmul(build, step, (a, step.left), (b, step.right), opset)


def _spread(build: Build, value: ir.Value, term: str, result: str, opset: int) -> ir.Value:
    """``value`` with the letters of ``result``, 1 where it has none."""
    ordered = _axes.transpose(build, value, [term.index(c) for c in result if c in term])
    return _axes.unsqueeze(build, ordered, [place for place, c in enumerate(result) if c not in term], opset)


def _orders(step: Step, left: str, right: str) -> tuple[str, str, str]:
    """The letters of both sides and of the product as MatMul wants them."""
    return (
        step.shared + step.own(left) + step.summed,
        step.shared + step.summed + step.own(right),
        step.shared + step.own(left) + step.own(right),
    )


def _effort(step: Step, left: str, right: str, a: ir.Value, b: ir.Value) -> int:
    """How many values, each by its rank, must be transposed if ``left`` is the MatMul's left side."""
    if len(step.own(right)) > 1:  # MatMul's right side has one column axis
        return 100
    orders = _orders(step, left, right)
    moved = [len(term) for term, order, v in ((left, orders[0], a), (right, orders[1], b)) if _moves(term, order, v)]
    return sum(moved) + (len(step.result) if orders[2] != step.result else 0)


def _moves(term: str, order: str, value: ir.Value) -> bool:
    return term != order and const(value) is None


def _matmul(build: Build, step: Step, left: tuple[ir.Value, str], right: tuple[ir.Value, str], opset: int) -> ir.Value:
    (a, a_term), (b, b_term) = left, right
    orders = _orders(step, a_term, b_term)
    a = _ordered(build, a, [a_term.index(c) for c in orders[0]])
    b = _ordered(build, b, [b_term.index(c) for c in orders[1]])
    row, column = not step.own(a_term), not step.own(b_term)
    if row:
        a = _axes.unsqueeze(build, a, [len(step.shared)], opset)
    if column:
        b = _axes.unsqueeze(build, b, [len(orders[1])], opset)
    ours, theirs = dims(a), dims(b)
    assert ours is not None and theirs is not None  # noqa: PT018 (match has seen the ranks)
    batch = broadcast([ours[: len(step.shared)], theirs[: len(step.shared)]]) or ()
    made = build.op("MatMul", a, b, shape=(*batch, *ours[len(step.shared) : -1], theirs[-1]))
    rank = len(dims(made) or ())
    gone = [rank - 2] * row + [rank - 1] * column
    made = _axes.squeeze(build, made, gone, opset)
    return _axes.transpose(build, made, [orders[2].index(c) for c in step.result])


def _ordered(build: Build, value: ir.Value, perm: Sequence[int]) -> ir.Value:
    """A constant is transposed here and now."""
    array = const(value)
    if array is None or list(perm) == sorted(perm):
        return _axes.transpose(build, value, perm)
    return build.const(f"{value.name}_transposed", np.transpose(array, perm))


def _einsum(
    equation: str, a: str | None, b: str | None, weight: tuple[int, ...] | None, result: str
) -> onnx.ModelProto:
    """An Einsum of two operands; the one without a shape is a weight."""
    inputs = ", ".join(f"float{shape} {name}" for name, shape in (("a", a), ("b", b)) if shape)
    operands = f"{'a' if a else 'w'}, {'b' if b else 'w'}"
    weights: dict[str, Any] = {} if weight is None else {"w": weight}
    return graph(f'({inputs}) => (float{result} y) {{ y = Einsum <equation = "{equation}"> ({operands}) }}', **weights)


RULE = LowerEinsum()
