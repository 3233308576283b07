"""Which values and weights become INT8, and why the others do not. Pure: reads a graph, returns a Plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgeattn.graphs import GraphIndex, attributes
from edgeattn.quantize._gates import Carried, ChannelGate, carriers, outputs
from edgeattn.quantize._policy import NARROW, WEIGHTED, attention_policy
from edgeattn.recognise import Attention

if TYPE_CHECKING:
    import onnx

    from edgeattn.quantize import Settings
    from edgeattn.quantize._products import GateProduct

__all__ = ["NARROW", "WEIGHTED", "Plan", "drop_unreached", "plan"]

_SAME_SCALE = ("MaxPool", "Concat")  # pick or stack values: input and output share one scale
_ACTIVATIONS = ("Relu", "Clip")  # every engine fuses these into the convolution before them


@dataclass(frozen=True)
class Plan:
    """Decisions for one graph.

    Attributes:
        activations: value -> the value whose scale it shares (itself, unless a pooling or Concat links them).
        known: gate masks -> the largest value they take, which is their range whatever the data; never shared.
        nonnegative: activations that cannot be negative, and neither can any that shares their scale.
        unsigned: activations are stored as UINT8; signed_elsewhere: only where they cannot be negative.
        weights: constant value -> the axis of its output channels.
        bias_apart: outputs of Gemms whose bias an Add behind them gives.
        kept: node name -> why it stays in float, for nodes that could have been quantized.
        attention: what the recogniser found.
        carried: gates that become scales. not_carried: of the other gates, why not, for engines that want them so.
    """

    activations: dict[str, str] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)
    nonnegative: set[str] = field(default_factory=set)
    unsigned: bool = False
    signed_elsewhere: bool = False
    weights: dict[str, int] = field(default_factory=dict)
    bias_apart: set[str] = field(default_factory=set)
    kept: dict[str, str] = field(default_factory=dict)
    attention: tuple[Attention, ...] = ()
    carried: tuple[Carried, ...] = ()
    not_carried: dict[str, str] = field(default_factory=dict)


def plan(
    model: onnx.ModelProto,
    settings: Settings,
    floats: Mapping[str, str] | None = None,
    found: Sequence[Attention] | None = None,
) -> Plan:
    """Decide for one graph: the policy says which layers are INT8, this which values that takes.

    Args:
        model: a float graph.
        settings: gate form, patterns to keep, what the engine needs.
        floats: output of a layer that stays in float -> why, for schemes that find such layers themselves.
        found: the graph's attention, where it is known; by default it is recognised.
    """
    index = GraphIndex(model)
    decided = attention_policy(model, settings.gate, settings.keep, floats, found)
    found = decided.attention
    result = Plan(attention=found, unsigned=settings.qdq.unsigned, signed_elsewhere=settings.qdq.signed_elsewhere)
    weighted = [node for node in index.nodes if node.op_type in WEIGHTED]
    chosen = [node for node in weighted if node.output[0] not in decided.kept_weighted]
    names = {node.output[0]: node.name or node.output[0] for node in weighted}
    result.kept.update({names[output]: why for output, why in decided.kept_weighted.items()})
    for node in chosen:
        _take(index, node, result, settings)
    for attention in found:
        _take_features(index, attention, chosen, result)
    for add in index.nodes:
        if add.op_type == "Add" and not any(map(index.is_constant, add.input)):
            _take_residual(index, add, chosen, {p.output for p in decided.products}, result, settings)
    if settings.gate == "int8":
        for product in decided.products:
            _take_product(index, product, result, settings)
    elif settings.qdq.gates_as_scales:
        result = _carry_gates(index, result, chosen)
    for value in list(result.activations):
        if value not in result.known:
            _link_scales(index, value, result)
    if settings.qdq.bias_apart:
        result.bias_apart.update(n.output[0] for n in chosen if _biased(n) and n.output[0] not in result.activations)
    signed = {root for value, root in result.activations.items() if not _never_negative(index, value)}
    result.nonnegative.update(value for value, root in result.activations.items() if root not in signed)
    result.nonnegative.update(result.known)
    return result


def drop_unreached(plan: Plan, peaks: Mapping[str, float]) -> None:
    """Leave activations in float that no calibration sample computed, nor any value that shares their scale."""
    reached = {root for value, root in plan.activations.items() if value in peaks or value in plan.known}
    for value in [v for v, root in plan.activations.items() if root not in reached]:
        del plan.activations[value]
        plan.nonnegative.discard(value)
        plan.kept[value] = "no calibration sample computed it"


def _biased(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gemm" and len(node.input) > 2 and attributes(node).get("beta", 1.0) == 1.0


def _take(index: GraphIndex, node: onnx.NodeProto, result: Plan, settings: Settings) -> None:
    transposed = node.op_type == "Conv" or bool(attributes(node).get("transB"))
    rank = len(index.constant_shape(node.input[1]) or ())
    result.weights[node.input[1]] = 0 if transposed else rank - 1
    result.activations.setdefault(node.input[0], node.input[0])
    if node.op_type == "Conv" and settings.qdq.requantize_conv_outputs:
        written = _written(index, node)
        if written not in index.outputs:
            result.activations.setdefault(written, written)


def _take_product(index: GraphIndex, product: GateProduct, result: Plan, settings: Settings) -> None:
    """A product with a gate in INT8: both operands quantized, the gate by its own range, which no data can widen."""
    result.activations.setdefault(product.features, product.features)
    result.activations[product.mask] = product.mask
    result.known[product.mask] = product.peak
    if settings.qdq.requantize_conv_outputs and product.output not in index.outputs:
        result.activations.setdefault(product.output, product.output)


def _take_features(index: GraphIndex, attention: Attention, chosen: list[onnx.NodeProto], result: Plan) -> None:
    """A gated tensor that a quantized convolution wrote is quantized once, before pools and Mul fan out from it."""
    for part in attention.parts or (attention,):
        producer = index.producer.get(part.features)
        if producer is not None and _weighted(index, producer) in chosen:
            result.activations.setdefault(part.features, part.features)


def _carry_gates(index: GraphIndex, result: Plan, chosen: list[onnx.NodeProto]) -> Plan:
    """Quantize what gates read and write where a scale can carry them; what a folded gate read is no longer there."""
    carried, refused = carriers(index, result.attention, chosen)
    for gate in carried:
        if isinstance(gate, ChannelGate) and gate.convolution is not None:
            result.activations.pop(gate.features, None)
    result.activations.update((value, value) for value in outputs(carried))
    return replace(result, carried=tuple(carried), not_carried=refused)


def _take_residual(
    index: GraphIndex,
    add: onnx.NodeProto,
    chosen: list[onnx.NodeProto],
    gated: set[str],
    result: Plan,
    settings: Settings,
) -> None:
    """On a residual sum quantize the shortcut; the side a convolution wrote alone fuses with the sum.

    Where convolutions must write INT8, so must a gate's product that meets one in a sum: they run in one pass.
    """
    sides = [(name, _written_only_for(index, name, add, chosen)) for name in add.input]
    if not any(_comes_from(index, name, chosen) for name, _ in sides):
        return
    requantized = settings.qdq.requantize_conv_outputs
    meets = requantized and any(fuses for _, fuses in sides)
    for name, fuses in sides:
        convolved = _comes_from(index, name, chosen) and (not fuses or requantized or _both(sides, name))
        if convolved or (name in gated and meets):
            result.activations.setdefault(name, name)


def _both(sides: list[tuple[str, bool]], name: str) -> bool:
    """Two convolutions meet in one sum: only one can fuse with it, so the second side is quantized."""
    return all(fuses for _, fuses in sides) and name == sides[1][0]


def _written_only_for(index: GraphIndex, name: str, add: onnx.NodeProto, chosen: list[onnx.NodeProto]) -> bool:
    producer = index.producer.get(name)
    return producer is not None and producer in chosen and index.consumers.get(name, []) == [add]


def _comes_from(index: GraphIndex, name: str, chosen: list[onnx.NodeProto]) -> bool:
    producer = index.producer.get(name)
    return producer is not None and _weighted(index, producer) in chosen


def _weighted(index: GraphIndex, node: onnx.NodeProto) -> onnx.NodeProto:
    """The convolution behind an activation function, or the node itself."""
    before = index.producer.get(node.input[0]) if node.op_type in _ACTIVATIONS else None
    return before if before is not None else node


def _written(index: GraphIndex, node: onnx.NodeProto) -> str:
    """What a convolution writes once the activation behind it is fused."""
    readers = index.consumers.get(node.output[0], [])
    fused = len(readers) == 1 and readers[0].op_type in _ACTIVATIONS and node.output[0] not in index.outputs
    return str(readers[0].output[0] if fused else node.output[0])


def _link_scales(index: GraphIndex, value: str, result: Plan) -> None:
    """Follow poolings and Concats up from a quantized value, so that both sides share one scale.

    A Concat of float values alone, such as [x; h] of a recurrent cell, is quantized behind: once, not a part at a time.
    """
    root = result.activations[value]
    inputs = list(_same_scale_inputs(index, value))
    joined = index.producer.get(value)
    if joined is not None and joined.op_type == "Concat" and not any(_in_int8(index, n, result) for n in inputs):
        return
    for name in inputs:
        if not index.is_constant(name) and name not in result.known:
            result.activations[name] = root
            _link_scales(index, name, result)


def _in_int8(index: GraphIndex, name: str, result: Plan) -> bool:
    """Whether a value is there in INT8 anyway: something else reads it so, or a quantized convolution writes it."""
    producer = index.producer.get(name)
    writer = None if producer is None else _weighted(index, producer)
    convolved = writer is not None and writer.op_type == "Conv" and (writer.name or writer.output[0]) not in result.kept
    return name in result.activations or convolved


def _never_negative(index: GraphIndex, value: str) -> bool:
    """Whether a value is at least 0 by construction, seen through poolings and Concats."""
    producer = index.producer.get(value)
    if producer is None:
        return False
    if producer.op_type == "Clip":
        low = index.constant(producer.input[1]) if len(producer.input) > 1 and producer.input[1] else None
        return low is not None and float(low) >= 0
    if producer.op_type in (*_SAME_SCALE, "AveragePool", "GlobalAveragePool", "GlobalMaxPool"):
        return all(_never_negative(index, name) for name in producer.input)
    return producer.op_type in ("Relu", "Sigmoid", "HardSigmoid", "Softmax")


def _same_scale_inputs(index: GraphIndex, value: str) -> Iterator[str]:
    producer = index.producer.get(value)
    if producer is not None and producer.op_type in _SAME_SCALE:
        yield from producer.input
