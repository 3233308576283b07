"""clamp_mask: masked scores become a finite -10⁴, by replacing them instead of adding.

What: before a Softmax, masked_fill(-inf), Where with a huge negative number, and Add or Sub of one (``finfo.min``,
-1e9) times a 0/1 mask become ``Where(mask, -1e4, score)``. Where -inf was used without a second fill, the weights of
masked positions are set to zero, so that a row without any valid position gives zeros and no NaN.

Why: -inf and -1e9 do not exist in FP16; ``finfo.min + score`` overflows; a fully masked row divides zero by zero, and
engines disagree about what that is. exp(-1e4) is exactly zero in FP32 and FP16.

Before: Softmax(Where(pad, -inf, score))
After: Where(pad, 0, Softmax(Where(pad, -1e4, score)))

Safe when: |score| < 9·10³, and additive masks hold only 0 and the huge number. Rows with a valid position are then
bit-identical. Rows without one: zeros instead of NaN; the uniform weights of a finite mask stay uniform.
Source: ONNX Attention operator (fully masked rows are zeros); transformers issue 17306.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from edgeattn.rewrite._rule import Exactness, GraphRule, Match, Miss, View, as_programs, miss
from edgeattn.rewrite._sample import f32, graph
from edgeattn.rewrite._view import attr, const, dims, made_by, scalar, used_once

if TYPE_CHECKING:
    from edgeattn.program import Program
    from edgeattn.rewrite._build import Build

FINITE = -1e4
HUGE = -6.5e4  # beyond FP16's range; anything above is left alone


@dataclass(frozen=True)
class Mask:
    """A masked score: where ``condition`` equals ``hides``, ``score`` is replaced by ``low``.

    ``condition`` is a bool value, a 0/1 float value or a constant array of the additive mask.
    """

    score: ir.Value
    condition: ir.Value
    hides: bool
    low: float
    nodes: tuple[ir.Node, ...]


class ClampMask(GraphRule):
    """Finite masks before Softmax."""

    name = "clamp_mask"
    exactness = Exactness(
        "conditional",
        condition="|score| < 9e3; rows without a valid position give zeros where they gave NaN",
        mends_nan=True,
    )
    anchors = ("Softmax",)

    def match(self, node: ir.Node, view: View) -> Match | Miss | None:
        """Anchored at the Softmax."""
        layers = _layers(node.inputs[0])
        if not layers:
            return None
        if isinstance(layers[-1], Miss) and len(layers) == 1:
            return layers[-1]
        masks = [m for m in layers if isinstance(m, Mask)]
        while masks and masks[-1].low >= HUGE:
            masks.pop()
        if not masks:
            return miss("the mask is finite already", _maker(layers[0]), 2)
        if any(v.dtype is None for m in masks for v in (m.score, m.condition) if const(v) is None):
            return miss("the type of the score or of the mask is unknown", node, 3)
        for mask in masks:
            if not used_once(mask.nodes[0].outputs[0]):
                return miss("the masked score is read elsewhere too", mask.nodes[0], 3)
        nodes = [n for mask in reversed(masks) for n in mask.nodes]
        return Match(node, (*nodes, node), {"masks": masks})

    def rewrite(self, match: Match, build: Build) -> None:
        """Where with a finite value, layer by layer; the Softmax; and a second Where where rows could be empty."""
        softmax, masks = match.anchor, match.parts["masks"]
        old = softmax.outputs[0]
        value = masks[-1].score
        for mask in reversed(masks):
            low = build.scalar("mask_low", FINITE if mask.low < HUGE else mask.low, value)
            shape = dims(mask.nodes[0].outputs[0])
            value = _select(build, _as_bool(mask, build), mask.hides, low, value, shape, mask.nodes[0])
        weights = build.like(softmax, value, shape=dims(old))
        for mask in masks:
            if mask.low == -np.inf and not _is_guarded(old, mask):
                zero = build.scalar("mask_zero", 0.0, value)
                weights = _select(build, _as_bool(mask, build), mask.hides, zero, weights, dims(old), mask.nodes[0])
        build.replace(old, weights)

    def examples(self) -> list[Program]:
        """-inf without and with a second fill, finfo.min, additive masks in three spellings, and two layers."""
        low = f32(-3.4028234663852886e38)  # finfo(float32).min
        tail = "y = Softmax <axis = 1> (m) }"
        head = "(float[batch,s] q, bool[batch,s] keep) => (float[batch,s] y)"
        floats = "(float[batch,s] q, float[batch,s] keep) => (float[batch,s] y)"
        return as_programs(
            graph(f"{head} {{ pad = Not(keep)  m = Where(pad, low, q)  {tail}", low=f32(-np.inf)),
            graph(
                f"""{head} {{ pad = Not(keep)  m = Where(pad, low, q)
                    a = Softmax(m)  y = Where(keep, a, zero) }}""",
                low=f32(-np.inf),
                zero=f32(0.0),
            ),
            graph(f"{head} {{ m = Where(keep, q, low)  {tail}", low=low),
            graph(f"{floats} {{ i = Sub(one, keep)  a = Mul(i, low)  m = Add(q, a)  {tail}", one=f32(1.0), low=low),
            graph(
                f"{floats} {{ i = Sub(keep, one)  a = Mul(i, low)  m = Add(q, a)  {tail}", one=f32(1.0), low=f32(1e9)
            ),
            graph(
                f"{floats} {{ i = Sub(one, keep)  a = Mul(i, low)  m = Sub(q, a)  {tail}", one=f32(1.0), low=f32(1e9)
            ),
            graph(
                f"{head} {{ n = Shape(q)  z = ConstantOfShape(n)  a = Where(keep, z, low)  m = Add(a, q)  {tail}",
                low=f32(-np.inf),
            ),
            graph(f"{head} {{ n = Shape(q)  z = Expand(low, n)  m = Where(keep, q, z)  {tail}", low=f32(-np.inf)),
            graph(f"{head} {{ a = Where(keep, zero, low)  m = Add(a, q)  {tail}", zero=f32(0.0), low=f32(-1e9)),
            graph(
                "(float[batch,3] q) => (float[batch,3] y) { m = Add(q, causal) y = Softmax <axis = 1> (m) }",
                causal=f32(0.0, 0.0, -1e9),
            ),
            graph(
                f"{head} {{ p = Where(keep, q, low)  c = Greater(q, one)  m = Where(c, low, p)  {tail}",
                one=f32(1.0),
                low=f32(-np.inf),
            ),
        )

    def near_misses(self) -> list[Program]:
        """Finite already; a bias; a mask that is fed as numbers; a masked score that is read elsewhere."""
        head = "(float[batch,s] q, bool[batch,s] keep) => (float[batch,s] y"
        return as_programs(
            graph(f"{head}) {{ m = Where(keep, q, low)  y = Softmax(m) }}", low=f32(-1e4)),
            graph("(float[batch,3] q) => (float[batch,3] y) { m = Add(q, b)  y = Softmax(m) }", b=(3,)),
            graph("(float[batch,s] q, float[batch,s] a) => (float[batch,s] y) { m = Add(q, a)  y = Softmax(m) }"),
            graph(f"{head}, float[batch,s] m) {{ m = Where(keep, q, low)  y = Softmax(m) }}", low=f32(-np.inf)),
        )


def _layers(value: ir.Value | None) -> list[Mask | Miss]:
    """The masks over a score, the outermost first; ends with a Miss where the outermost is none."""
    found: list[Mask | Miss] = []
    while (maker := made_by(value, "Where", "Add", "Sub")) is not None:
        layer = _where(maker) if maker.op_type == "Where" else _added(maker)
        if isinstance(layer, Miss):
            return found or [layer]
        found.append(layer)
        value = layer.score
    return found


def _maker(layer: Mask | Miss) -> ir.Node | None:
    return layer.nodes[0] if isinstance(layer, Mask) else None


def _number(value: ir.Value | None, score: ir.Value | None) -> float | None:
    """The one number that a value holds, if it is no wider than the score: a larger one might widen it."""
    filled = made_by(value, "ConstantOfShape", "Expand")
    if filled is None:
        array = const(value)
        return float(array.flat[0]) if array is not None and array.size == 1 else None
    shape = made_by(filled.inputs[-1], "Shape")
    like = shape.inputs[0] if shape is not None and not {"start", "end"} & set(shape.attributes) else None
    if like is None or (like is not score and (dims(like) != dims(score) or None in (dims(like) or (None,)))):
        return None
    if filled.op_type == "Expand":
        return _number(filled.inputs[0], score)
    fill = attr(filled, "value")
    return 0.0 if fill is None else float(fill.numpy().flat[0])


def _where(node: ir.Node, score: ir.Value | None = None) -> Mask | Miss:
    """A Where with a number in one branch; what is added to ``score`` has numbers in both."""
    condition, yes, no = node.inputs
    assert condition is not None
    for low, rest, hides in ((yes, no, True), (no, yes, False)):
        number = _number(low, score or rest)
        if number is not None and rest is not None:
            return Mask(rest, condition, hides, number, (node,))
    return miss("neither branch is one constant number", node, 1)


def _added(node: ir.Node) -> Mask | Miss:
    """Add(score, additive mask), either way round, or Sub(score, mask)."""
    if node.op_type == "Sub":
        return _additive(node, node.inputs[0], node.inputs[1], -1.0)
    answers = [_additive(node, score, mask, 1.0) for score, mask in (node.inputs, node.inputs[::-1])]
    return next((a for a in answers if isinstance(a, Mask)), answers[0])


def _additive(node: ir.Node, score: ir.Value | None, mask: ir.Value | None, sign: float) -> Mask | Miss:
    assert score is not None and mask is not None  # noqa: PT018 (Add and Sub have two operands)
    array = const(mask)
    if array is not None:
        return _constant_mask(node, score, mask, array, sign)
    where, mul = made_by(mask, "Where"), made_by(mask, "Mul")
    if where is not None:
        found = _where(where, score)
        other = _number(found.score, score) if isinstance(found, Mask) else None
        if isinstance(found, Mask) and other == 0.0:
            return Mask(score, found.condition, found.hides, sign * found.low, (node, where))
        if isinstance(found, Mask) and found.low == 0.0 and other is not None:
            return Mask(score, found.condition, not found.hides, sign * other, (node, where))
    for flag, constant in (mul.inputs, mul.inputs[::-1]) if mul is not None else ():
        number = _number(constant, score)
        keep = _inverted(flag)
        if mul is not None and number is not None and keep is not None:  # (keep - 1) * 1e9
            return Mask(score, keep, False, -sign * number, (node, mul))
        if mul is not None and flag is not None and number is not None and _is_flag(flag):
            return Mask(score, flag, True, sign * number, (node, mul))
    return miss("what is added is not built from a 0/1 mask and one huge negative number", node, 1)


def _constant_mask(
    node: ir.Node, score: ir.Value, mask: ir.Value, array: np.ndarray[Any, Any], sign: float
) -> Mask | Miss:
    hidden = array < HUGE
    if sign < 0 or not hidden.any() or (array[~hidden] != 0).any():
        return miss("the constant it adds is no mask of 0 and a huge negative number", node, 1)
    return Mask(score, mask, True, float(array.min()), (node,))


def _is_flag(value: ir.Value) -> bool:
    """1 - mask, or a cast of a bool: something that holds 0 and 1."""
    sub, cast = made_by(value, "Sub"), made_by(value, "Cast")
    if sub is not None:
        return scalar(sub.inputs[0]) == 1.0
    return cast is not None and cast.inputs[0] is not None and cast.inputs[0].dtype == ir.DataType.BOOL


def _inverted(value: ir.Value | None) -> ir.Value | None:
    """The mask behind mask - 1, spelled as Sub or Add; None for anything else."""
    sub, add = made_by(value, "Sub"), made_by(value, "Add")
    if sub is not None and scalar(sub.inputs[1]) == 1.0:
        return sub.inputs[0]
    for mask, one in (add.inputs, add.inputs[::-1]) if add is not None else ():
        if scalar(one) == -1.0:
            return mask
    return None


def _as_bool(mask: Mask, build: Build) -> ir.Value:
    array = const(mask.condition)
    if array is not None and array.dtype != np.bool_:
        return build.const(f"{mask.condition.name}_hides", array < HUGE)
    if mask.condition.dtype == ir.DataType.BOOL:
        return mask.condition
    half = build.scalar("mask_half", 0.5, mask.condition)
    shape = dims(mask.condition)
    return build.op("Greater", mask.condition, half, shape=shape, dtype=ir.DataType.BOOL, source=mask.nodes[0])


def _select(
    build: Build,
    condition: ir.Value,
    hides: bool,
    low: ir.Value,
    value: ir.Value,
    shape: tuple[int | str | None, ...] | None,
    source: ir.Node,
) -> ir.Value:
    """``low`` where ``condition`` equals ``hides``, else ``value``."""
    arms = (low, value) if hides else (value, low)
    return build.op("Where", condition, *arms, shape=shape, dtype=value.dtype, source=source)


def _is_guarded(weights: ir.Value, mask: Mask) -> bool:
    """Whether the Softmax's only reader already writes zeros under the same mask."""
    if not used_once(weights):
        return False
    reader = weights.consumers()[0]
    if reader.op_type != "Where":
        return False
    zeroes_true = scalar(reader.inputs[1]) == 0.0
    zeroes_false = scalar(reader.inputs[2]) == 0.0
    condition = reader.inputs[0]
    if condition is mask.condition:
        return zeroes_true if mask.hides else zeroes_false
    if _negates(condition, mask.condition) or _negates(mask.condition, condition):
        return zeroes_false if mask.hides else zeroes_true
    return False


def _negates(a: ir.Value | None, b: ir.Value | None) -> bool:
    node = made_by(a, "Not")
    return node is not None and node.inputs[0] is b


RULE = ClampMask()
