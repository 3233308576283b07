"""What a product reads, taken apart: the values that were joined along its last axis, and how they were laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeattn.rewrite import _axes
from edgeattn.rewrite._view import attr, dims

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeattn.rewrite._build import Build

LAYING = ("Unsqueeze", "Squeeze", "Transpose", "Identity")


@dataclass(frozen=True)
class Leaf:
    """A part of what is multiplied: a value, the rows of the weights it meets, and how it is laid out before."""

    value: ir.Value
    rows: slice
    chain: tuple[ir.Node, ...]  # the first is the nearest to the product


def leaves_of(value: ir.Value, row: int = 0, chain: tuple[ir.Node, ...] = ()) -> list[Leaf]:
    """What is joined along the last axis, seen through operators that leave that axis last; empty where unknown."""
    node = value.producer()
    shape = dims(value)
    if not shape or not isinstance(shape[-1], int):
        return []
    if node is not None and node.domain == "" and node.op_type in LAYING and _keeps_last(node):
        source = node.inputs[0]
        return leaves_of(source, row, (*chain, node)) if source is not None else []
    if node is None or node.domain != "" or node.op_type != "Concat" or attr(node, "axis") not in (-1, len(shape) - 1):
        return [Leaf(value, slice(row, row + shape[-1]), chain)]
    found: list[Leaf] = []
    for operand in node.inputs:
        some = leaves_of(operand, found[-1].rows.stop if found else row, chain) if operand is not None else []
        if not some:
            return []
        found += some
    return found


def _keeps_last(node: ir.Node) -> bool:
    before, after = dims(node.inputs[0]), dims(node.outputs[0])
    if not before or not after:
        return False
    step = _axes.moved(node)
    return step is not None and step[-1] == len(before) - 1


def laid(build: Build, value: ir.Value, leaf: Leaf) -> ir.Value:
    """``value`` through a leaf's chain; as it is where the chain only inserts, moves and removes the same axis."""
    now: list[int | None] = list(range(len(dims(leaf.value) or ())))
    for node in reversed(leaf.chain):
        now = [None if at is None else now[at] for at in _axes.moved(node) or ()]
    if now == list(range(len(dims(leaf.value) or ()))):
        return value
    for node in reversed(leaf.chain):
        shape = dims(node.outputs[0]) or ()
        value = build.like(node, value, *node.inputs[1:], shape=(*shape[:-1], (dims(value) or (None,))[-1]))
    return value
