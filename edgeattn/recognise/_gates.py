"""Gates: a mask between 0 and 1, made from reductions of the features it multiplies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeattn.recognise._attention import Attention
from edgeattn.recognise._axes import NONE
from edgeattn.recognise._channels import channel_axis
from edgeattn.recognise._graph import DATA, LAYOUT, SAME, Dims, Graph
from edgeattn.recognise._walk import Walk, walk_back

if TYPE_CHECKING:
    import onnx

STRIP = "strip"  # one of coordinate attention's two gates: no mechanism by itself
_MOST_STEPS = 24
_MOST_PRODUCTS = 6


class Product(NamedTuple):
    """A multiplication a mask takes part in, with what it multiplies; ``kept`` if by one plus the mask."""

    node: onnx.NodeProto
    operand: str
    kept: bool


@dataclass(frozen=True)
class _Gate:
    """What the walk back from a mask found."""

    mask: str
    function: str
    product: Product
    walk: Walk

    def attention(self, kind: str, channels: int | None, **facts: Any) -> Attention:
        return Attention(
            kind=kind,
            nodes=frozenset(n.output[0] for n in self.walk.nodes),
            gate=self.mask,
            features=self.walk.features,
            result=self.product.node.output[0],
            pools=tuple(sorted(self.walk.mask.pools)),
            channels=channels,
            gate_function=self.function,
            **facts,
        )


def gate(graph: Graph, mask: str, function: str) -> Attention | None:
    """The gate that ``mask`` is; None where it is none, or is made of something else than what it multiplies."""
    for product in islice(_products(graph, mask), _MOST_PRODUCTS):
        for operand in _multiplied(graph, product.operand):
            walk = walk_back(graph, mask, graph.aliases(operand))
            if walk:  # all of the mask comes from these features: if it has no name with them, it has none
                return _named(graph, _Gate(mask, function, product, walk))
    return None


def _products(graph: Graph, mask: str) -> Iterator[Product]:
    """The multiplications a mask reaches through reshaping nodes, products with other masks, and a sum with one."""
    queue, seen = [(mask, False, False)], {mask}
    for name, kept, multiplied in queue:
        for node in graph.consumers.get(name, []):
            if not node.output or len(seen) > _MOST_STEPS:
                continue
            if (node.op_type == "Mul" and len(node.input) == 2) or _multiplies(graph, node):
                others = [other for other in node.input if other != name and graph.level(other) == DATA]
                yield from (Product(node, other, kept) for other in others)
                step = (node.output[0], kept, True)
            elif node.op_type in LAYOUT or node.op_type in ("Gather", "Slice"):
                step = (node.output[0], kept, multiplied)
            elif node.op_type == "Add" and not multiplied and any(map(graph.is_one, node.input)):
                step = (node.output[0], True, False)
            else:
                continue
            if step[0] not in seen:
                seen.add(step[0])
                queue.append(step)


def _multiplies(graph: Graph, node: onnx.NodeProto) -> bool:
    """An Einsum of two operands that sums nothing up, ``nchw,nc->nchw``."""
    if node.op_type != "Einsum" or len(node.input) != 2:
        return False
    given, _, made = graph.attributes(node).get("equation", b"").decode().replace(" ", "").partition("->")
    return bool(made) and set(given) - {","} <= set(made) and made in given.split(",")


def _multiplied(graph: Graph, operand: str) -> Iterator[str]:
    """The operand, and what another mask has multiplied before, as in ``(x * rows) * columns``."""
    yield operand
    before = graph.producer.get(graph.root(operand))
    if before is not None and (before.op_type == "Mul" or _multiplies(graph, before)):
        yield from (n for n in before.input if graph.level(n) == DATA)


def _named(graph: Graph, found: _Gate) -> Attention | None:
    """Which mechanism a gate is, told by what was reduced; None for one that is not known."""
    root = graph.aliases(found.walk.features)[-1]
    rank = graph.rank(root) or 4
    known = channel_axis(graph, root)
    for channel in [known] if known else dict.fromkeys((1, rank - 1)):
        made = _of_channel(graph, found, channel, rank)
        if made:
            return made
    return None


def _of_channel(graph: Graph, found: _Gate, channel: int, rank: int) -> Attention | None:
    """The mechanism, if the channels lie in that axis."""
    gone, space = found.walk.mask.gone, frozenset(range(1, rank)) - {channel}
    if NONE in gone:
        return _bam(graph, found, channel) if gone == {NONE, space} and found.walk.direct else None
    if found.product.kept or not space:
        return None
    if gone == {space}:
        return _channel(graph, found, channel)
    if gone == {frozenset({channel})}:
        return _spatial(graph, found, channel)
    strips = {frozenset({axis}) for axis in space}
    return _strip(graph, found, channel) if gone == strips and len(strips) == 2 else None


def _channel(graph: Graph, found: _Gate, channel: int) -> Attention | None:
    shapes = _convolutions(graph, found)
    sliding = [w[2:] for w in shapes if w[:2] == (1, 1) and any(n != 1 for n in w[2:])]
    if sliding:  # one plane to one: along the channels
        kernel = tuple(n for n in sliding[0] if n != 1)
        return found.attention("eca", _width(graph, found, channel), kernel=kernel)
    if any(mixed is not None and channel not in mixed for mixed in found.walk.mixed[:1]):
        return None
    channels, reduction = _bottleneck(graph, found)
    kind = "cam" if found.walk.mask.pools == {"max", "mean"} else "se"
    return found.attention(kind, channels or _width(graph, found, channel), reduction=reduction)


def _spatial(graph: Graph, found: _Gate, channel: int) -> Attention | None:
    shapes = _convolutions(graph, found)
    if any(mixed is not None and mixed - {channel} for mixed in found.walk.mixed[:1]):
        return None
    kernel = max((w[2:] for w in shapes), default=())
    return found.attention("sam", _width(graph, found, channel), kernel=kernel)


def _bam(graph: Graph, found: _Gate, channel: int) -> Attention | None:
    """A mask of pooled channels and of one plane that convolutions make of the features, which are kept beside it."""
    shapes = _convolutions(graph, found)
    planes = [w for w in shapes if len(w) >= 3 and w[0] == 1]
    result = _kept(graph, found)
    if not planes or not result or any(n.op_type != "Conv" for n in found.walk.direct):
        return None
    channels, reduction = _bottleneck(graph, found, planes)
    kernel = max((w[2:] for w in shapes), default=())
    made = found.attention("bam", channels or _width(graph, found, channel), reduction=reduction, kernel=kernel)
    return replace(made, result=result)


def _kept(graph: Graph, found: _Gate) -> str:
    """The value ``x + mask * x`` or ``(1 + mask) * x``; empty where the features are only multiplied."""
    product, features = found.product.node.output[0], graph.root(found.walk.features)
    if found.product.kept:
        return str(product)
    names = [str(product)]
    for name in names:  # grows by the product's quantized forms
        same = [n for n in graph.consumers.get(name, []) if n.op_type in SAME and n.output]
        names += [str(n.output[0]) for n in same][: _MOST_STEPS - len(names)]
    readers = [n for name in names for n in graph.consumers.get(name, [])]
    sums = [n for n in readers if n.op_type == "Add"]
    return next((str(n.output[0]) for n in sums if features in (graph.root(i) for i in n.input)), "")


def _strip(graph: Graph, found: _Gate, channel: int) -> Attention:
    channels, reduction = _bottleneck(graph, found)
    return found.attention(STRIP, channels or _width(graph, found, channel), reduction=reduction)


def _convolutions(graph: Graph, found: _Gate) -> list[tuple[int, ...]]:
    """Shapes of the convolutions' weights, the one nearest to the mask first."""
    shapes = [graph.weight(n) for n in found.walk.layers if n.op_type == "Conv"]
    return [tuple(int(d) for d in s) for s in shapes if s and all(isinstance(d, int) for d in s)]


def _bottleneck(graph: Graph, found: _Gate, besides: Sequence[tuple[int, ...]] = ()) -> tuple[int | None, int | None]:
    """C, and C divided by the hidden width, from the fully connected and convolution layers, some left aside."""
    weights: list[Dims] = [graph.weight(n) or () for n in found.walk.layers]
    widths = [d for w in weights if len(w) >= 2 and w not in besides for d in w[:2] if isinstance(d, int)]
    hidden = min(widths, default=0)
    return (max(widths), max(widths) // hidden) if hidden else (None, None)


def _width(graph: Graph, found: _Gate, channel: int) -> int | None:
    """C of the gated tensor, where the graph tells it."""
    shape = graph.dims(graph.root(found.walk.features))
    size = shape[channel] if shape and channel < len(shape) else None
    return size if isinstance(size, int) else None
