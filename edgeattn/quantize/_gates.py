"""Which gates can be written as scales of quantized values, and what they are made of. Pure: reads a float graph.

A gate multiplies; so does a scale. What is quantized anyway takes its gate for free where the gate becomes part of the
scale it is stored with, and no full-size tensor has to be unpacked to float for a multiplication. That holds for one
image at a time (a scale belongs to a value, a gate to a sample) of a known size. ``_carry`` writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.graphs import GraphIndex, attributes

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array
    from edgeattn.recognise import Attention

_SQUASH = ("Sigmoid", "HardSigmoid")
_POOLS = {"GlobalAveragePool": "mean", "GlobalMaxPool": "max"}
_REDUCES = {"ReduceMean": "mean", "ReduceMax": "max"}


class Unlike(Exception):
    """Why a gate cannot be carried by a scale."""


@dataclass(frozen=True)
class Layer:
    """A fully connected layer: weight (I, O), bias (O)."""

    weight: Array
    bias: Array


@dataclass(frozen=True)
class ChannelGate:
    """``result = features · g``, with ``g = squash(second(relu(first(pools))))`` of shape (1, C, 1, 1).

    Attributes:
        features, result: values of shape (1, C, H, W).
        size: H, W.
        pools: what the first layer reads, ``mean`` and ``max``, in the order of the second layer's rows.
        first, second: the MLP; ``second`` reads the hidden values of all pools side by side.
        squash: the node that makes the gate.
        writer: the pointwise convolution that wrote the features, if it is one: their mean follows from its input's.
        folds: the gate becomes the scales of the writer's weights, and the writer goes.
        replaced: outputs of the nodes that go.
    """

    features: str
    result: str
    size: tuple[int, int]
    pools: tuple[str, ...]
    first: Layer
    second: Layer
    squash: onnx.NodeProto
    writer: onnx.NodeProto | None
    folds: bool
    replaced: frozenset[str]


@dataclass(frozen=True)
class SpatialGate:
    """``result = features · s``, with ``s = squash(conv(mean and max over channels))`` of shape (1, 1, H, W).

    Attributes:
        features, result: values of shape (1, C, H, W).
        size: H, W.
        channels: C.
        pools: ``mean`` and ``max`` in the order the convolution reads them.
        convolution, squash: the nodes that make the gate. weight, bias: of the convolution.
        replaced: outputs of the nodes that go.
    """

    features: str
    result: str
    size: tuple[int, int]
    channels: int
    pools: tuple[str, ...]
    convolution: onnx.NodeProto
    weight: Array
    bias: Array | None
    squash: onnx.NodeProto
    replaced: frozenset[str]


Carried = ChannelGate | SpatialGate


def carriers(
    index: GraphIndex, found: Iterable[Attention], chosen: list[onnx.NodeProto]
) -> tuple[list[Carried], dict[str, str]]:
    """The gates whose features quantized convolutions write and that scales can carry; of the others, why not.

    Args:
        index: the float graph. found: its attention. chosen: the convolutions that become INT8.
    """
    carried: list[Carried] = []
    refused: dict[str, str] = {}
    for attention in found:
        if attention.family != "gate":
            continue
        try:
            carried += _parts(index, attention, chosen)
        except Unlike as why:
            refused[attention.gate] = str(why)
    return carried, refused


def _parts(index: GraphIndex, attention: Attention, chosen: list[onnx.NodeProto]) -> list[Carried]:
    """All halves of a mechanism, or none: the second reads what the first one writes."""
    parts = {part.kind: part for part in (attention.parts or (attention,))}
    channel, spatial = parts.pop("se", None) or parts.pop("cam", None), parts.pop("sam", None)
    if parts or (attention.parts and attention.order not in ("", "channel-first")):
        raise Unlike(f"{attention.kind} {attention.order}".strip() + " is not written as scales")
    writer = index.producer.get(attention.parts[0].features if attention.parts else attention.features)
    if channel is not None:
        writer = index.producer.get(channel.features)
    if writer is None or writer not in chosen or writer.op_type != "Conv":
        raise Unlike("no INT8 convolution writes the features")
    made: list[Carried] = []
    if channel is not None:
        made.append(_channel(index, channel, writer, folds=spatial is None))
    if spatial is not None:
        made.append(_spatial(index, spatial, channel.result if channel else spatial.features))
    return made


def _channel(index: GraphIndex, part: Attention, writer: onnx.NodeProto, *, folds: bool) -> ChannelGate:
    _, channels, height, width = _static(index, part.features)
    squash = _only(index, part.gate, _SQUASH)
    second = _only(index, squash.input[0], ("Conv",))
    relu = _only(index, second.input[0], ("Relu",))
    first = _only(index, relu.input[0], ("Conv",))
    joined = index.producer.get(first.input[0])
    stacked = joined is not None and joined.op_type == "Concat" and attributes(joined)["axis"] == 2
    nodes = [_only(index, n, tuple(_POOLS)) for n in (joined.input if joined and stacked else first.input[:1])]
    product = _product(index, part)
    if any(pool.input[0] != part.features for pool in nodes):
        raise Unlike("its pools read something else than the features")
    layers = _layer(index, first, 1), _layer(index, second, len(nodes))
    if layers[0].weight.shape[0] != channels or layers[1].weight.shape != (
        len(nodes) * layers[0].weight.shape[1],
        channels,
    ):
        raise Unlike("its layers do not fit its channels")
    _read_by(index, part.features, [*nodes, product])
    gone = [*nodes, first, relu, second, squash, product, *([joined] if joined is not None and stacked else [])]
    pools = tuple(_POOLS[n.op_type] for n in nodes)
    composes = pointwise(index, writer) and _sized(index, writer.input[0])
    folds = folds and pools == ("mean",) and composes
    if folds:
        gone.append(writer)
    return ChannelGate(
        part.features,
        part.result,
        (height, width),
        pools,
        *layers,
        squash,
        writer if composes else None,
        folds,
        frozenset(n.output[0] for n in gone),
    )


def _spatial(index: GraphIndex, part: Attention, features: str) -> SpatialGate:
    _, channels, height, width = _static(index, features)
    if part.features != features:
        raise Unlike("its halves do not follow each other")
    squash = _only(index, part.gate, _SQUASH)
    convolution = _only(index, squash.input[0], ("Conv",))
    joined = _only(index, convolution.input[0], ("Concat",))
    nodes = [_only(index, name, tuple(_REDUCES)) for name in joined.input]
    product = _product(index, part)
    if attributes(joined)["axis"] != 1 or _static(index, squash.output[0]) != (1, 1, height, width):
        raise Unlike("its mask is not one plane of the features' size")
    for node in nodes:
        axes = index.constant(node.input[1]) if len(node.input) > 1 else np.array(attributes(node).get("axes", []))
        if node.input[0] != features or axes is None or axes.tolist() != [1] or not attributes(node).get("keepdims", 1):
            raise Unlike("its reductions are not over the channels")
    _read_by(index, features, [*nodes, product])
    pools = tuple(_REDUCES[n.op_type] for n in nodes)
    weight = index.constant(convolution.input[1])
    biased = len(convolution.input) > 2 and convolution.input[2]
    bias = index.constant(convolution.input[2]) if biased else None
    if weight is None or (biased and bias is None):
        raise Unlike("its convolution's weights are computed")
    gone = frozenset(n.output[0] for n in [*nodes, joined, convolution, squash, product])
    return SpatialGate(features, part.result, (height, width), channels, pools, convolution, weight, bias, squash, gone)


def _static(index: GraphIndex, value: str) -> tuple[int, int, int, int]:
    shape = index.shape(value)
    numbers = [d for d in shape or () if isinstance(d, int)]
    if shape is None or len(numbers) != 4 or len(shape) != 4:
        raise Unlike("the sizes are not numbers (edgeattn rewrite --fix batch=1 --fix height=… first)")
    if numbers[0] != 1:
        raise Unlike("the batch is not 1")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _only(index: GraphIndex, value: str, operators: tuple[str, ...]) -> onnx.NodeProto:
    """The node of one of these types that writes a value which one node reads and no one outside sees."""
    node: onnx.NodeProto | None = index.producer.get(value)
    if node is None or node.op_type not in operators:
        raise Unlike(
            f"a {node.op_type if node is not None else 'graph input'} where {operators[0]} is written as scales"
        )
    if len(index.consumers.get(value, [])) != 1 or value in index.outputs:
        raise Unlike("a value inside the gate is used outside")
    return node


def _product(index: GraphIndex, part: Attention) -> onnx.NodeProto:
    node: onnx.NodeProto = index.producer[part.result]
    if part.result in index.outputs:
        raise Unlike("its result is an output, which is not quantized")
    if node.op_type != "Mul" or sorted(node.input) != sorted((part.features, part.gate)):
        raise Unlike("the gate does not multiply the features directly")
    return node


def _read_by(index: GraphIndex, value: str, nodes: list[onnx.NodeProto]) -> None:
    if value in index.outputs or any(reader not in nodes for reader in index.consumers[value]):
        raise Unlike("the features are used beside the gate")


def _layer(index: GraphIndex, node: onnx.NodeProto, rows: int) -> Layer:
    """A convolution over ``rows`` stacked vectors as a matrix that reads them side by side."""
    weight = index.constant(node.input[1])
    bias = index.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if weight is None or weight.shape[2:] != (rows, 1) or attributes(node).get("group", 1) != 1 or not plain(node):
        raise Unlike("its layers are not fully connected ones")
    if bias is None:
        bias = np.zeros(weight.shape[0], np.float32)
    return Layer(np.ascontiguousarray(weight.transpose(2, 1, 3, 0).reshape(-1, weight.shape[0])), bias)


def plain(node: onnx.NodeProto) -> bool:
    """No padding, stride or dilation."""
    given = attributes(node)
    ones = all(set(given.get(name, [1])) == {1} for name in ("strides", "dilations"))
    return ones and not any(given.get("pads", [0])) and given.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")


def pointwise(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """A 1×1 convolution with stored weights, whose output's mean is the same convolution of its input's mean."""
    shape = index.constant_shape(node.input[1])
    known = shape is not None and shape[2:] == (1, 1) and attributes(node).get("group", 1) == 1 and plain(node)
    return known and (len(node.input) < 3 or not node.input[2] or index.is_constant(node.input[2]))


def _sized(index: GraphIndex, value: str) -> bool:
    size = index.shape(value)
    return size is not None and all(isinstance(d, int) for d in size)


def outputs(carried: Iterable[Carried]) -> Iterator[str]:
    """Values that must be quantized for the gates to be carried."""
    for gate in carried:
        yield gate.result
        if not (isinstance(gate, ChannelGate) and gate.folds):
            yield gate.features
