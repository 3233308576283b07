"""Gates: a mask between 0 and 1, made from reductions of the features it multiplies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeattn.graphs import GraphIndex
from edgeattn.recognise._attention import Attention
from edgeattn.recognise._walk import POOLING, QDQ, RESHAPING, Walk, origin, reduced, walk_back

if TYPE_CHECKING:
    import onnx

STRIP = "strip"  # one of coordinate attention's two gates: no mechanism by itself


class Product(NamedTuple):
    """A multiplication a mask takes part in, with what it multiplies; ``kept`` if by one plus the mask."""

    node: onnx.NodeProto
    operand: str
    kept: bool


@dataclass(frozen=True)
class _Gate:
    """What the walk back from a mask found."""

    mask: str
    product: Product
    features: str
    walk: Walk

    def attention(self, kind: str, channels: int | None, **facts: Any) -> Attention:
        return Attention(
            kind=kind,
            nodes=frozenset(n.output[0] for n in self.walk.nodes),
            gate=self.mask,
            features=self.features,
            result=self.product.node.output[0],
            pools=tuple(sorted({POOLING[n.op_type] for n in self.walk.reductions})),
            channels=channels,
            **facts,
        )


def gate(index: GraphIndex, node: onnx.NodeProto) -> Attention | None:
    """The gate whose mask ``node`` gives; None where it gives none, or its mask is made of something else."""
    if not _ends_gate(index, node):
        return None
    mask = node.output[0]
    for product in _products(index, mask):
        for features in _multiplied(index, product.operand):
            walk = walk_back(index, node, origin(index, features))
            found = _named(index, _Gate(mask, product, features, walk)) if walk else None
            if found:
                return found
    return None


def _ends_gate(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """Sigmoid, HardSigmoid, or the latter spelled out: a Clip to 0 … 6, divided by 6."""
    if node.op_type in ("Sigmoid", "HardSigmoid"):
        return True
    if node.op_type not in ("Div", "Mul") or len(node.input) != 2:
        return False
    divided, by = node.input
    if node.op_type == "Mul" and index.is_constant(divided):
        divided, by = by, divided
    clip, sixth = index.producer.get(divided), _number(index, by)
    if clip is None or clip.op_type != "Clip" or len(clip.input) != 3 or not sixth:
        return False
    low, high = (_number(index, name) for name in clip.input[1:])
    share = 1 / sixth if node.op_type == "Div" else sixth
    return (low, high) == (0.0, 6.0) and abs(6 * share - 1) < 1e-3  # people write 0.1667


def _number(index: GraphIndex, name: str) -> float | None:
    value = index.constant(name)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None


def _products(index: GraphIndex, mask: str) -> Iterator[Product]:
    """The multiplications a mask reaches through reshaping nodes, products with other masks, and a sum with one."""
    queue, seen = [(mask, False, False)], {mask}
    for name, kept, multiplied in queue:
        for node in index.consumers.get(name, []):
            if node.op_type == "Mul" and len(node.input) == 2:
                others = [other for other in node.input if other != name and not index.is_constant(other)]
                yield from (Product(node, other, kept) for other in others)
                step = (node.output[0], kept, True)
            elif node.op_type in RESHAPING + QDQ:
                step = (node.output[0], kept, multiplied)
            elif node.op_type == "Add" and not multiplied and any(_number(index, n) == 1.0 for n in node.input):
                step = (node.output[0], True, False)
            else:
                continue
            if step[0] not in seen:
                seen.add(step[0])
                queue.append(step)


def _multiplied(index: GraphIndex, operand: str) -> Iterator[str]:
    """The operand, and what another mask has multiplied before, as in ``(x * rows) * columns``."""
    yield operand
    before = index.producer.get(origin(index, operand))
    if before is not None and before.op_type == "Mul":
        yield from before.input


def _named(index: GraphIndex, found: _Gate) -> Attention | None:
    """Which mechanism a gate is, told by what was reduced; None for one that is not known."""
    walk, features = found.walk, origin(index, found.features)
    axes = {reduced(index, r, features) for r in walk.reductions}
    if walk.direct:
        return _bam(index, found) if axes == {"space"} else None
    if found.product.kept:
        return None
    if axes == {"space"}:
        return _channel(index, found)
    if axes == {"channel"}:
        return _spatial(index, found)
    return _strip(index, found) if axes == {"height", "width"} else None


def _channel(index: GraphIndex, found: _Gate) -> Attention:
    weights = _kernels(index, found)
    if slides := [w[2:] for w in weights if len(w) == 3 and w[:2] == (1, 1)]:  # one plane to one: along the channels
        return found.attention("eca", _features_width(index, found), kernel=slides[0])
    channels, reduction = _bottleneck(index, found)
    kind = "cam" if {POOLING[r.op_type] for r in found.walk.reductions} == {"max", "mean"} else "se"
    return found.attention(kind, channels, reduction=reduction)


def _spatial(index: GraphIndex, found: _Gate) -> Attention:
    kernels = _kernels(index, found)
    return found.attention("sam", _features_width(index, found), kernel=kernels[0][2:] if kernels else ())


def _bam(index: GraphIndex, found: _Gate) -> Attention | None:
    """A mask of pooled channels and of one plane that convolutions make of the features, which are kept beside it."""
    planes = [w for w in _kernels(index, found) if len(w) == 4 and w[0] == 1]
    result = _kept(index, found)
    if not planes or not result or any(n.op_type != "Conv" for n in found.walk.direct):
        return None
    channels, reduction = _bottleneck(index, found, planes)
    kernel = max((w[2:] for w in _kernels(index, found)), default=())
    return replace(found.attention("bam", channels, reduction=reduction, kernel=kernel), result=result)


def _kept(index: GraphIndex, found: _Gate) -> str:
    """The value ``x + mask * x`` or ``(1 + mask) * x``; empty where the features are only multiplied."""
    product, features = found.product.node.output[0], origin(index, found.features)
    if found.product.kept:
        return str(product)
    sums = [n for n in index.consumers.get(product, []) if n.op_type == "Add"]
    return next((str(n.output[0]) for n in sums if features in (origin(index, i) for i in n.input)), "")


def _strip(index: GraphIndex, found: _Gate) -> Attention:
    channels, reduction = _bottleneck(index, found)
    return found.attention(STRIP, channels, reduction=reduction)


def _kernels(index: GraphIndex, found: _Gate) -> list[tuple[int, ...]]:
    """Shapes of the convolutions' weights, the one nearest to the mask first."""
    convs = [n for n in found.walk.nodes if n.op_type == "Conv"]
    return [index.constant_shape(origin(index, n.input[1])) or () for n in convs]


def _bottleneck(
    index: GraphIndex, found: _Gate, besides: Sequence[tuple[int, ...]] = ()
) -> tuple[int | None, int | None]:
    """C, and C divided by the hidden width, from the fully connected and convolution layers, some left aside."""
    layers = [n for n in found.walk.nodes if n.op_type in ("Conv", "Gemm", "MatMul")]
    weights = [index.constant_shape(origin(index, n.input[1])) or () for n in layers]
    widths = [int(d) for w in weights if len(w) >= 2 and w not in besides for d in w[:2]]
    hidden = min(widths, default=0)
    return (max(widths), max(widths) // hidden) if hidden else (None, None)


def _features_width(index: GraphIndex, found: _Gate) -> int | None:
    """C of the gated tensor, where the graph tells it."""
    shape = index.shape(found.features)
    return shape[1] if shape and len(shape) > 1 and isinstance(shape[1], int) else None
