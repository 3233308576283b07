"""Finds attention in an ONNX graph, whoever wrote or exported it.

The search starts at what cannot be spelled differently. A *gate* ends in Sigmoid or HardSigmoid and multiplies a
tensor; walking back from the sigmoid, every path must end in a reduction of that same tensor (or a constant). What
was reduced tells the mechanism: space -> channel attention (SE with one pool, CAM with two, ECA if a 1-D convolution
slides over the channels), channels -> spatial attention (SAM), rows or columns alone -> none that is known here; an SE
or CAM whose result a SAM gates is a CBAM. An *alignment* is a Softmax whose weights multiply a memory: additive if a
Tanh feeds it, else multiplicative. Because only the ends are matched, the MLP may be Linear or Conv, with or without
bias, and the pools may be spelled in any way.

Sources: SE (Hu 2018, section 3), ECA (Wang 2020, section 3.2), CBAM (Woo 2018, section 3), Luong 2015 section 3,
Bahdanau 2015 appendix A.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeattn.graphs import GraphIndex, attributes

if TYPE_CHECKING:
    import onnx

_GATES = ("Sigmoid", "HardSigmoid")
_RESHAPING = ("Reshape", "Unsqueeze", "Squeeze", "Flatten", "Expand", "Identity", "Cast", "Transpose", "Tile")
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_GLOBAL_POOLS = {"GlobalAveragePool": "mean", "GlobalMaxPool": "max"}
_REDUCTIONS = {"ReduceMean": "mean", "ReduceMax": "max"}
_POOLS = {"AveragePool": "mean", "MaxPool": "max"}


@dataclass(frozen=True)
class Attention:
    """One attention structure.

    Attributes:
        kind: ``se``, ``eca``, ``cam``, ``sam``, ``cbam``, ``multiplicative`` or ``additive``.
        nodes: every node of the mechanism from the reductions (or scores) to the gate (or weights), by output name.
        gate: the value holding the mask (after the sigmoid) or the alignment weights (after the softmax).
        features: the value that is gated, or the memory that is attended to.
        result: the value the mechanism produces.
        pools: reductions used, sorted: ``mean``, ``max``.
        channels: width C of the gated tensor where the graph tells it.
        reduction: C divided by the MLP's hidden width, for channel attention.
        kernel: kernel size of the spatial convolution, or of ECA's over the channels.
        parts: for ``cbam``, its channel and spatial halves.
    """

    kind: str
    nodes: frozenset[str]
    gate: str
    features: str
    result: str
    pools: tuple[str, ...] = ()
    channels: int | None = None
    reduction: int | None = None
    kernel: tuple[int, ...] = ()
    parts: tuple[Attention, ...] = field(default=(), repr=False)

    def describe(self) -> str:
        """One line for a person."""
        facts = [f"{self.channels} channels" if self.channels else ""]
        facts += [f"reduction {self.reduction}" if self.reduction else ""]
        facts += [f"{'x'.join(map(str, self.kernel))} conv" if self.kernel else ""]
        facts += [f"pools {' + '.join(self.pools)}" if self.pools else ""]
        return ", ".join(f for f in facts if f)


def recognise(model: onnx.ModelProto) -> list[Attention]:
    """Every attention structure of a graph, in graph order; a CBAM is listed once, with its halves as ``parts``."""
    index = GraphIndex(model)
    found: list[Attention] = []
    for node in index.nodes:
        if node.op_type in _GATES and (gate := _gate(index, node)):
            found.append(gate)
        elif node.op_type == "Softmax" and (alignment := _alignment(index, node)):
            found.append(alignment)
    return _pair_cbam(index, found)


def masks(found: Iterable[Attention], kind: str) -> list[str]:
    """The mask values of every mechanism of a kind (``sam`` also finds the spatial half of each CBAM)."""
    flat = [part for a in found for part in (a.parts or (a,))]
    return [a.gate for a in flat if a.kind == kind]


@dataclass(frozen=True)
class _Gate:
    """What the walk back from a sigmoid found."""

    sigmoid: onnx.NodeProto
    multiply: onnx.NodeProto
    features: str
    nodes: list[onnx.NodeProto]
    reductions: list[onnx.NodeProto]

    @property
    def pools(self) -> tuple[str, ...]:
        table = {**_GLOBAL_POOLS, **_REDUCTIONS, **_POOLS}
        return tuple(sorted({table[n.op_type] for n in self.reductions}))

    def attention(self, kind: str, channels: int | None, **facts: Any) -> Attention:
        return Attention(
            kind=kind,
            nodes=frozenset(n.output[0] for n in self.nodes),
            gate=self.sigmoid.output[0],
            features=self.features,
            result=self.multiply.output[0],
            pools=self.pools,
            channels=channels,
            **facts,
        )


def _gate(index: GraphIndex, sigmoid: onnx.NodeProto) -> Attention | None:
    for multiply, features in _gated(index, sigmoid.output[0]):
        walked = _walk_to_reductions(index, sigmoid, _origin(index, features))
        if walked:
            gate = _Gate(sigmoid, multiply, features, *walked)
            axes = {_reduced(index, r, _origin(index, features)) for r in gate.reductions}
            if axes == {"space"}:
                return _channel(index, gate)
            if axes == {"channel"}:
                return _spatial(index, gate)
    return None


def _gated(index: GraphIndex, mask: str) -> list[tuple[onnx.NodeProto, str]]:
    """``(Mul, the other operand)`` for every multiplication the mask reaches through reshaping nodes."""
    found = []
    for node in index.consumers.get(mask, []):
        if node.op_type == "Mul" and len(node.input) == 2:
            others = [name for name in node.input if name != mask]
            found += [(node, others[0])] if others else []
        elif node.op_type in _RESHAPING + _QDQ:
            found += _gated(index, node.output[0])
    return found


def _origin(index: GraphIndex, name: str) -> str:
    """The value behind quantization and identity nodes."""
    node = index.producer.get(name)
    while node is not None and node.op_type in (*_QDQ, "Identity"):
        name = node.input[0]
        node = index.producer.get(name)
    return name


def _walk_to_reductions(
    index: GraphIndex, gate: onnx.NodeProto, features: str
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]] | None:
    """Nodes between the gate and reductions of ``features``; None if any path ends elsewhere."""
    nodes, reductions, queue, seen = [gate], [], [gate.input[0]], {gate.output[0]}
    while queue:
        name = queue.pop()
        if index.is_constant(name) or name in seen or not name:
            continue
        node = index.producer.get(name)
        if node is None or len(nodes) > 64:
            return None
        seen.add(name)
        nodes.append(node)
        if node.op_type in (*_GLOBAL_POOLS, *_REDUCTIONS, *_POOLS) and _reads(index, node, features):
            reductions.append(node)
        elif node.op_type in ("Shape", "Size"):
            continue
        else:
            queue += [n for n in node.input if n]
    return (nodes, reductions) if reductions else None


def _reads(index: GraphIndex, node: onnx.NodeProto, features: str) -> bool:
    """Whether a reduction reads the features, directly or after a reshape such as ``x.view(b, c, -1)``."""
    name = _origin(index, node.input[0])
    producer = index.producer.get(name)
    if name != features and producer is not None and producer.op_type in ("Reshape", "Flatten"):
        name = _origin(index, producer.input[0])
    return name == features


def _reduced(index: GraphIndex, node: onnx.NodeProto, features: str) -> str:
    """``space``, ``channel`` or ``other``: what a reduction of the features reduces."""
    if node.op_type in (*_GLOBAL_POOLS, *_POOLS):
        return "space" if node.op_type in _GLOBAL_POOLS or _covers(index, node) else "other"
    axes = attributes(node).get("axes")
    if axes is None and len(node.input) > 1:
        value = index.constant(node.input[1])
        axes = None if value is None else value.tolist()
    if axes is None:
        return "other"
    if sorted(axes) in ([1], [-3]):
        return "channel"
    flattened = _origin(index, node.input[0]) != features  # as in ``x.view(b, c, -1)``: one axis holds all of space
    spatial = ([2], [-1]) if flattened else ([2, 3], [-2, -1], [-1, 2])
    return "space" if sorted(axes) in spatial else "other"


def _covers(index: GraphIndex, pool: onnx.NodeProto) -> bool:
    """Whether a pool's window is all of space; where the graph does not tell its size, that it is no row or column."""
    window = attributes(pool).get("kernel_shape", [])
    size = (index.shape(pool.input[0]) or ())[2:]
    known = bool(size) and all(isinstance(n, int) for n in size)
    return list(window) == list(size) if known else 1 not in window


def _channel(index: GraphIndex, gate: _Gate) -> Attention:
    weights = [index.constant_shape(_origin(index, n.input[1])) or () for n in gate.nodes if n.op_type == "Conv"]
    if slides := [w[2:] for w in weights if len(w) == 3 and w[:2] == (1, 1)]:  # one plane to one: along the channels
        return gate.attention("eca", _features_width(index, gate), kernel=slides[0])
    widths = [w for n in gate.nodes if n.op_type in ("Conv", "Gemm", "MatMul") for w in _width(index, n)]
    channels, hidden = (max(widths), min(widths)) if widths else (None, None)
    kind = "cam" if len(gate.pools) == 2 else "se"
    return gate.attention(kind, channels, reduction=channels // hidden if channels and hidden else None)


def _spatial(index: GraphIndex, gate: _Gate) -> Attention:
    convs = [n for n in gate.nodes if n.op_type == "Conv"]
    kernel = tuple((index.constant_shape(_origin(index, convs[0].input[1])) or ())[2:]) if convs else ()
    return gate.attention("sam", _features_width(index, gate), kernel=kernel)


def _features_width(index: GraphIndex, gate: _Gate) -> int | None:
    """C of the gated tensor, where the graph tells it."""
    shape = index.shape(gate.features)
    return shape[1] if shape and len(shape) > 1 and isinstance(shape[1], int) else None


def _width(index: GraphIndex, node: onnx.NodeProto) -> list[int]:
    """Input and output width of a fully connected or 1x1 convolution layer."""
    weight = index.constant_shape(_origin(index, node.input[1]))
    return [int(d) for d in weight[:2]] if weight and len(weight) >= 2 else []


def _alignment(index: GraphIndex, softmax: onnx.NodeProto) -> Attention | None:
    weights = _reaches(index, softmax.output[0], ("MatMul", "Einsum"))
    if weights is None:
        return None
    multiply, weights_name = weights
    memory = next((n for n in multiply.input if n != weights_name), "")
    nodes, additive = [softmax], False
    queue, seen = [softmax.input[0]], {softmax.output[0]}
    scored = False
    while queue:
        name = queue.pop()
        node = index.producer.get(name)
        if node is None or name in seen or index.is_constant(name) or len(nodes) > 24:
            continue
        seen.add(name)
        nodes.append(node)
        if node.op_type == "Tanh":
            additive = scored = True
        elif node.op_type in ("MatMul", "Einsum", "Gemm", "ReduceSum") and not _scores_by_vector(index, node):
            scored = True
        elif node.op_type not in ("Shape", "Size"):
            # what a Where chooses by is the mask; local attention computes it with a Tanh that scores nothing
            queue += [n for n in node.input[node.op_type == "Where" :] if n]
    if not scored:
        return None
    return Attention(
        kind="additive" if additive else "multiplicative",
        nodes=frozenset(n.output[0] for n in nodes),
        gate=softmax.output[0],
        features=memory,
        result=multiply.output[0],
    )


def _scores_by_vector(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """A product with a constant vector: the ``v`` of an additive score, behind which the Tanh lies."""
    return any(index.is_constant(name) for name in node.input[1:])


def _reaches(index: GraphIndex, name: str, targets: tuple[str, ...]) -> tuple[onnx.NodeProto, str] | None:
    """The first target node a value reaches through masking and reshaping, with the operand it arrives as."""
    queue, steps = [name], 0
    while queue and steps < 16:
        name, steps = queue.pop(0), steps + 1
        for node in index.consumers.get(name, []):
            if node.op_type in targets:
                return node, name
            if node.op_type in (*_RESHAPING, *_QDQ, "Where", "Mul"):
                queue.append(node.output[0])
    return None


def _pair_cbam(index: GraphIndex, found: list[Attention]) -> list[Attention]:
    """Join each channel gate with the spatial gate that follows it on its result."""
    spatial_of = {_origin(index, a.features): a for a in found if a.kind == "sam"}
    joined: list[Attention] = []
    used: set[str] = set()
    for a in found:
        half = spatial_of.get(a.result) if a.kind in ("se", "cam") else None
        if half is not None:
            used |= {a.gate, half.gate}
            joined.append(
                Attention(
                    "cbam", a.nodes | half.nodes, half.gate, a.features, half.result, a.pools, a.channels,
                    a.reduction, half.kernel, (a, half),
                )
            )  # fmt: skip
    place = {node.output[0]: i for i, node in enumerate(index.nodes)}
    return sorted([*(a for a in found if a.gate not in used), *joined], key=lambda a: place[a.gate])
