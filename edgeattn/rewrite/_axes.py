"""Operators that name axes, in the spelling of an opset: attributes in the older ones, inputs in the newer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.rewrite._view import Dim, attr, dims, made_by
from edgeattn.rewrite._view import axes as axes_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build


def unsqueeze(build: Build, value: ir.Value, axes: Sequence[int], opset: int) -> ir.Value:
    """``value`` with dimensions of size 1 at ``axes`` (of the result, not negative); itself where there are none."""
    shape = list(dims(value) or ()) if dims(value) is not None else None
    for axis in sorted(axes):
        if shape is not None:
            shape.insert(axis, 1)
    return _axial(build, "Unsqueeze", value, axes, shape, opset >= 13) if axes else value


def squeeze(build: Build, value: ir.Value, axes: Sequence[int], opset: int) -> ir.Value:
    """``value`` without the dimensions ``axes`` (not negative); its own source where they had only been inserted."""
    shape = dims(value)
    source, laid = peeled(value)
    if [at for place, at in enumerate(laid) if place not in axes] == list(range(len(dims(source) or ()))):
        return source
    kept = None if shape is None else [d for axis, d in enumerate(shape) if axis not in axes]
    return _axial(build, "Squeeze", value, axes, kept, opset >= 13) if axes else value


def peeled(value: ir.Value) -> tuple[ir.Value, tuple[int | None, ...]]:
    """What a value is, behind operators that only lay it out: its source, and which axis of it each dimension is.

    None stands for an inserted dimension of size 1. Only whole steps are taken back: a dimension of the source that
    was squeezed away is missing in the answer.
    """
    shape = dims(value)
    laid: tuple[int | None, ...] = tuple(range(len(shape or ())))
    while shape is not None and (node := made_by(value, "Unsqueeze", "Squeeze", "Transpose", "Identity")) is not None:
        source = node.inputs[0]
        step = moved(node)
        if source is None or dims(source) is None or step is None:
            break
        laid = tuple(None if at is None else step[at] for at in laid)
        value = source
    return value, laid


def moved(node: ir.Node) -> list[int | None] | None:
    """Which axis of a layout operator's input each dimension of its output is; None where it cannot be told."""
    rank = len(dims(node.inputs[0]) or ())
    if node.op_type == "Identity":
        return list(range(rank))
    if node.op_type == "Transpose":
        return list(attr(node, "perm", list(reversed(range(rank)))))
    named = axes_of(node)
    if named is None:
        return None
    if node.op_type == "Squeeze":
        return [axis for axis in range(rank) if axis not in named]
    old = iter(range(rank))
    return [None if place in named else next(old) for place in range(rank + len(named))]


def reduce(build: Build, op_type: str, value: ir.Value, axis: int, opset: int, keepdims: int) -> ir.Value:
    """A reduction of ``value`` along one axis (not negative)."""
    shape = dims(value)
    rest = None if shape is None else [1 if place == axis else d for place, d in enumerate(shape)]
    if rest is not None and not keepdims:
        del rest[axis]
    as_input = opset >= (13 if op_type == "ReduceSum" else 18)
    return _axial(build, op_type, value, (axis,), rest, as_input, keepdims=keepdims)


def transpose(build: Build, value: ir.Value, perm: Sequence[int]) -> ir.Value:
    """``value`` with its dimensions in the order ``perm``; itself where that changes nothing."""
    if list(perm) == sorted(perm):
        return value
    shape = dims(value)
    moved = None if shape is None else [shape[axis] for axis in perm]
    return build.op("Transpose", value, shape=moved, perm=list(perm))


def split(build: Build, value: ir.Value, sizes: Sequence[int], axis: int, opset: int) -> list[ir.Value]:
    """``value`` cut along an axis (not negative) into parts of the given sizes."""
    shape = dims(value)
    cut = [None if shape is None else [n if at == axis else d for at, d in enumerate(shape)] for n in sizes]
    if opset < 13:
        return build.ops("Split", value, shapes=cut, axis=axis, split=list(sizes))
    name = "split_" + "_".join(map(str, sizes))
    return build.ops("Split", value, build.const(name, np.array(sizes, np.int64)), shapes=cut, axis=axis)


def _axial(
    build: Build,
    op_type: str,
    value: ir.Value,
    axes: Sequence[int],
    shape: Sequence[Dim] | None,
    as_input: bool,
    **attributes: Any,
) -> ir.Value:
    numbers = sorted(axes)
    if as_input:
        name = "axes_" + "_".join(map(str, numbers))
        axes_value = build.const(name, np.array(numbers, np.int64))
        return build.op(op_type, value, axes_value, shape=shape, **attributes)
    return build.op(op_type, value, shape=shape, axes=numbers, **attributes)
