"""The multiplications by gates: where a mask between 0 and 1 meets the features, and how large it can be there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeattn.graphs import GraphIndex

if TYPE_CHECKING:
    import onnx

    from edgeattn.recognise import Attention

_SAME = frozenset({"Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Expand", "Tile", "Slice"})
_SAME |= {"Gather", "Split", "Cast"}
_MASKS = ("Sigmoid", "HardSigmoid")
_DEPTH = 8


@dataclass(frozen=True)
class GateProduct:
    """One multiplication of features by a gate.

    Attributes:
        output: the product. features, mask: its operands.
        peak: the largest value the mask takes, known without data: 1 for a sigmoid, 2 for one plus a sigmoid.
    """

    output: str
    features: str
    mask: str
    peak: float


def products(index: GraphIndex, found: Sequence[Attention]) -> Iterator[GateProduct]:
    """Every multiplication of features by a recognised gate, once; a coordinate attention has two."""
    seen: set[str] = set()
    for attention in found:
        for part in attention.parts or (attention,):
            if part.family == "gate":
                fresh = [p for p in _behind(index, part.result, part) if p.output not in seen]
                seen.update(p.output for p in fresh)
                yield from fresh


def _behind(index: GraphIndex, name: str, part: Attention, depth: int = 0) -> Iterator[GateProduct]:
    """Back from a mechanism's result through sums and products to the features."""
    node = index.producer.get(name)
    if node is None or depth > _DEPTH or name == part.features or node.op_type not in ("Mul", "Add", *_SAME):
        return
    if node.op_type == "Mul":
        product = _product(index, node, part)
        if product is not None:
            yield product
            yield from _behind(index, product.features, part, depth + 1)
        return
    for operand in node.input if node.op_type == "Add" else node.input[:1]:
        yield from _behind(index, operand, part, depth + 1)


def _product(index: GraphIndex, node: onnx.NodeProto, part: Attention) -> GateProduct | None:
    for mask, features in (node.input, reversed(node.input)):
        peak = _peak(index, mask, part)
        if peak is not None and _peak(index, features, part) is None:
            return GateProduct(node.output[0], features, mask, peak)
    return None


def _peak(index: GraphIndex, name: str, part: Attention, depth: int = 0) -> float | None:
    """The largest value of what is made of this mechanism's masks alone; None for anything else."""
    node = index.producer.get(name)
    if node is None or depth > _DEPTH:
        return None
    if name == part.gate or (node.op_type in _MASKS and name in part.nodes):
        return 1.0
    if node.op_type in _SAME:
        return _peak(index, node.input[0], part, depth + 1)
    if node.op_type == "Add":
        return _plus_one(index, node, part, depth)
    if node.op_type == "Mul":
        sides = [_peak(index, side, part, depth + 1) for side in node.input]
        return None if None in sides else float(sides[0] or 0.0) * float(sides[1] or 0.0)
    return None


def _plus_one(index: GraphIndex, node: onnx.NodeProto, part: Attention, depth: int) -> float | None:
    """BAM's ``1 + mask``."""
    for mask, one in (node.input, reversed(node.input)):
        constant = index.constant(one)
        if constant is not None and constant.size and bool((constant == 1).all()):
            peak = _peak(index, mask, part, depth + 1)
            return None if peak is None else peak + 1.0
    return None
