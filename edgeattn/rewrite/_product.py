"""A product with constant weights, however it is written: MatMul from either side, Gemm, or a 1×1 Conv."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.rewrite._rule import Miss, miss
from edgeattn.rewrite._view import attr, const, dims, made_by, used_once

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build


@dataclass(frozen=True)
class Product:
    """``source`` times constant weights, summed over one of its axes.

    Attributes:
        node: the product. source: what is multiplied, before Transposes and a flattening Reshape.
        matrix: weights as ``(depth, width)``. bias: ``(width,)`` or None.
        channel: the axis of ``source`` that is summed over.
        perm: how ``source`` is transposed before the product.
        flat: whether its leading axes are flattened to rows before the product.
        form: ``right`` (source @ W), ``left`` (Wᵀ @ source) or ``conv``.
        nodes: what lies between source and product.
    """

    node: ir.Node
    source: ir.Value
    matrix: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any] | None
    channel: int
    perm: tuple[int, ...]
    flat: bool
    form: str
    nodes: tuple[ir.Node, ...]

    @property
    def depth(self) -> int:
        """How many numbers each sum adds."""
        return int(self.matrix.shape[0])

    @property
    def width(self) -> int:
        """How many numbers come out."""
        return int(self.matrix.shape[1])

    def on(self, build: Build, value: ir.Value, rows: slice, stem: str, *, biased: bool) -> ir.Value:
        """The same product of ``value``, which lies as the product wants it, with some rows of the weights."""
        some = self.matrix[rows]
        shape = dims(value) or ()
        weight = self.node.inputs[0 if self.form == "left" else 1]
        name = f"{weight.name if weight is not None else 'weight'}_{stem}"
        bias = build.const(f"{name}_bias", self.bias) if biased and self.bias is not None else None
        if self.form == "conv":
            kernel = some.T.reshape(some.shape[1], some.shape[0], *(1 for _ in shape[2:]))
            out = (*shape[:1], self.width, *shape[2:])
            operands = [value, build.const(name, kernel), *([bias] if bias is not None else [])]
            return build.op("Conv", *operands, shape=out, kernel_shape=[1 for _ in shape[2:]])
        if self.form == "left":
            out = (*shape[:-2], self.width, shape[-1])
            made = build.op("MatMul", build.const(name, some.T), value, shape=out)
        else:
            out = (*shape[:-1], self.width)
            made = build.op("MatMul", value, build.const(name, some), shape=out)
        return made if bias is None else build.op("Add", made, bias, shape=out)


def product(node: ir.Node) -> Product | Miss | None:
    """The product that a node is; None where it has no constant weights, a Miss where its attributes do not fit."""
    if node.op_type == "Conv":
        return _conv(node)
    if node.op_type == "Gemm":
        return _gemm(node)
    left, right = const(node.inputs[0]), const(node.inputs[1])
    if right is not None and right.ndim == 2:
        return _behind(node, node.inputs[0], right, None, "right")
    if left is not None and left.ndim == 2:
        return _behind(node, node.inputs[1], left.T, None, "left")
    return None


def plain(node: ir.Node) -> Product | None:
    """A product of rows as they lie; how they were laid out before is left alone."""
    made = product(node)
    if not isinstance(made, Product) or made.form != "right":
        return None
    value = node.inputs[0]
    assert value is not None
    rank = len(dims(value) or ())
    return Product(node, value, made.matrix, made.bias, rank - 1, tuple(range(rank)), False, "right", ())


def pieces(value: ir.Value, *, shared: bool = False) -> Iterator[ir.Value]:
    """What a Concat along the last axis joins, or the value itself; ``shared``: also where others read the Concat."""
    node = made_by(value, "Concat")
    read = shared or used_once(value)
    if node is not None and read and attr(node, "axis") in (-1, len(dims(value) or ()) - 1):
        yield from (piece for piece in node.inputs if piece is not None)
    else:
        yield value


def _gemm(node: ir.Node) -> Product | Miss | None:
    weight, third = const(node.inputs[1]), node.inputs[2] if len(node.inputs) > 2 else None
    if weight is None:
        return None
    if attr(node, "transA", 0):
        return miss("its first operand is transposed", node, 1)
    matrix = weight.T if attr(node, "transB", 0) else weight
    if attr(node, "alpha", 1.0) != 1.0:
        matrix = matrix * weight.dtype.type(attr(node, "alpha"))
    bias = None
    if third is not None:
        added = const(third)
        if (
            added is None
            or added.size not in (1, matrix.shape[1])
            or (added.ndim > 1 and added.shape[-1] != added.size)
        ):
            return miss("what it adds is not one constant number a column", node, 1)
        row = np.broadcast_to(added.reshape(-1), (matrix.shape[1],))
        bias = np.ascontiguousarray(row * added.dtype.type(attr(node, "beta", 1.0)))
    return _behind(node, node.inputs[0], matrix, bias, "right")


def _conv(node: ir.Node) -> Product | Miss | None:
    weight, bias = const(node.inputs[1]), const(node.inputs[2]) if len(node.inputs) > 2 else None
    if weight is None or (len(node.inputs) > 2 and node.inputs[2] is not None and bias is None):
        return None
    plain = (
        all(n == 1 for n in weight.shape[2:])
        and attr(node, "group", 1) == 1
        and not any(attr(node, "pads", ()))
        and all(n == 1 for n in attr(node, "strides", ()))
        and attr(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
    )
    if not plain:
        return miss("its kernel covers more than one position, or it has groups, pads or strides", node, 1)
    return _behind(node, node.inputs[0], weight.reshape(weight.shape[:2]).T, bias, "conv")


def _behind(
    node: ir.Node, value: ir.Value | None, matrix: np.ndarray[Any, Any], bias: np.ndarray[Any, Any] | None, form: str
) -> Product | None:
    """Walk back over what only lays the source out differently."""
    shape = dims(value)
    if value is None or shape is None or len(shape) < 2:
        return None
    nodes, flat = [], False
    reshape = made_by(value, "Reshape", "Flatten") if form == "right" and len(shape) == 2 else None
    before = dims(reshape.inputs[0]) if reshape is not None else None
    if reshape is not None and before and len(before) > 2 and isinstance(before[-1], int) and before[-1] == shape[1]:
        value, shape, flat = reshape.inputs[0], before, True
        nodes.append(reshape)
    channel = {"right": len(shape) - 1, "left": len(shape) - 2, "conv": 1}[form]
    perm = tuple(range(len(shape)))
    while (step := made_by(value, "Transpose", "Identity")) is not None:
        if step.op_type == "Transpose":
            order = attr(step, "perm", list(reversed(range(len(shape)))))
            perm = tuple(order[axis] for axis in perm)
        value = step.inputs[0]
        nodes.append(step)
    assert value is not None
    return Product(node, value, matrix, bias, perm[channel], perm, flat, form, tuple(nodes))
