"""Which values and weights become INT8, and why the others do not. Pure: reads a graph, returns a Plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from edgeattn.graphs import GraphIndex, attributes
from edgeattn.recognise import Attention, recognise

if TYPE_CHECKING:
    import onnx

    from edgeattn.quantize import Settings

WEIGHTED = ("Conv", "Gemm", "MatMul")
NARROW = 16  # INT8 kernels work on 16 and more channels; below, float is faster and more accurate
_SAME_SCALE = ("MaxPool", "Concat")  # pick or stack values: input and output share one scale
_ACTIVATIONS = ("Relu", "Clip")  # every engine fuses these into the convolution before them


@dataclass(frozen=True)
class Plan:
    """Decisions for one graph.

    Attributes:
        activations: value -> the value whose scale it shares (itself, unless a pooling or Concat links them).
        nonnegative: activations that cannot be negative, and neither can any that shares their scale.
        unsigned: activations are stored as UINT8.
        weights: constant value -> the axis of its output channels.
        bias_apart: outputs of Gemms whose bias an Add behind them gives.
        kept: node name -> why it stays in float, for nodes that could have been quantized.
        attention: what the recogniser found.
    """

    activations: dict[str, str] = field(default_factory=dict)
    nonnegative: set[str] = field(default_factory=set)
    unsigned: bool = False
    weights: dict[str, int] = field(default_factory=dict)
    bias_apart: set[str] = field(default_factory=set)
    kept: dict[str, str] = field(default_factory=dict)
    attention: tuple[Attention, ...] = ()


def plan(model: onnx.ModelProto, settings: Settings) -> Plan:
    """Decide for one graph. Weighted layers are INT8 unless narrow, inside a gate, or kept by request."""
    index = GraphIndex(model)
    found = tuple(recognise(model))
    # Of an alignment the vector behind the tanh is narrow and stays float; its projections are layers like any other.
    gates = {output for a in found if a.family == "gate" for output in a.nodes}
    result = Plan(attention=found, unsigned=settings.qdq.unsigned)
    chosen: list[onnx.NodeProto] = []
    for node in index.nodes:
        if node.op_type not in WEIGHTED:
            continue
        why = _why_float(index, node, gates, settings)
        if why:
            result.kept[node.name or node.output[0]] = why
        else:
            chosen.append(node)
    for node in chosen:
        _take(index, node, result, settings)
    for attention in found:
        _take_features(index, attention, chosen, result)
    for add in index.nodes:
        if add.op_type == "Add" and not any(map(index.is_constant, add.input)):
            _take_residual(index, add, chosen, result, settings)
    for value in list(result.activations):
        _link_scales(index, value, result)
    if settings.qdq.bias_apart:
        result.bias_apart.update(n.output[0] for n in chosen if _biased(n) and n.output[0] not in result.activations)
    signed = {root for value, root in result.activations.items() if not _never_negative(index, value)}
    result.nonnegative.update(value for value, root in result.activations.items() if root not in signed)
    return result


def unmatched(models: Sequence[onnx.ModelProto], patterns: Sequence[str]) -> list[str]:
    """Keep patterns that match no node of any graph: a typo that would silently quantize what was to be kept."""
    names = [name for model in models for node in model.graph.node for name in node_names(node)]
    return [p for p in patterns if not any(_matches(name, p) for name in names)]


def node_names(node: onnx.NodeProto) -> list[str]:
    """What a user may call a node: its ONNX name and, where the exporter recorded it, its PyTorch module path."""
    scopes = [p.value for p in node.metadata_props if p.key in ("pkg.torch.onnx.name_scopes", "namespace")]
    modules = [part.strip(" '\"[]") for scope in scopes for part in scope.replace("/", ",").split(",")]
    return [node.name, *(m.split(":")[0].strip() for m in modules if m)]


def _matches(name: str, pattern: str) -> bool:
    return bool(name) and fnmatchcase(name, pattern)


def _why_float(index: GraphIndex, node: onnx.NodeProto, gates: set[str], settings: Settings) -> str:
    shape = index.constant_shape(node.input[1])
    if shape is None or len(shape) < 2:
        return "its weights are computed, not stored"
    if node.output[0] in gates:
        return "inside an attention gate (policy gate=float)"
    if any(_matches(name, pattern) for name in node_names(node) for pattern in settings.keep):
        return "kept by request"
    outputs, inputs = _channels(node, shape)
    reads_input = node.input[0] not in index.producer
    if outputs < NARROW or (inputs < NARROW and not reads_input and attributes(node).get("group", 1) == 1):
        return f"narrow: {inputs} -> {outputs} channels, INT8 pays from {NARROW}"
    return ""


def _biased(node: onnx.NodeProto) -> bool:
    return node.op_type == "Gemm" and len(node.input) > 2 and attributes(node).get("beta", 1.0) == 1.0


def _channels(node: onnx.NodeProto, shape: tuple[int, ...]) -> tuple[int, int]:
    """Output and input channels of a weighted layer."""
    transposed = node.op_type == "Conv" or bool(attributes(node).get("transB"))
    return (shape[0], shape[1]) if transposed else (shape[-1], shape[-2])


def _take(index: GraphIndex, node: onnx.NodeProto, result: Plan, settings: Settings) -> None:
    transposed = node.op_type == "Conv" or bool(attributes(node).get("transB"))
    rank = len(index.constant_shape(node.input[1]) or ())
    result.weights[node.input[1]] = 0 if transposed else rank - 1
    result.activations.setdefault(node.input[0], node.input[0])
    if node.op_type == "Conv" and settings.qdq.requantize_conv_outputs:
        written = _written(index, node)
        if written not in index.outputs:
            result.activations.setdefault(written, written)


def _take_features(index: GraphIndex, attention: Attention, chosen: list[onnx.NodeProto], result: Plan) -> None:
    """A gated tensor that a quantized convolution wrote is quantized once, before pools and Mul fan out from it."""
    for part in attention.parts or (attention,):
        producer = index.producer.get(part.features)
        if producer is not None and _weighted(index, producer) in chosen:
            result.activations.setdefault(part.features, part.features)


def _take_residual(
    index: GraphIndex, add: onnx.NodeProto, chosen: list[onnx.NodeProto], result: Plan, settings: Settings
) -> None:
    """On a residual sum quantize the shortcut; the side a convolution wrote alone fuses with the sum."""
    sides = [(name, _written_only_for(index, name, add, chosen)) for name in add.input]
    if not any(_comes_from(index, name, chosen) for name, _ in sides):
        return
    for name, fuses in sides:
        if _comes_from(index, name, chosen) and (
            not fuses or settings.qdq.requantize_conv_outputs or _both(sides, name)
        ):
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
    """Follow poolings and Concats up from a quantized value, so that both sides share one scale."""
    root = result.activations[value]
    for name in _same_scale_inputs(index, value):
        if not index.is_constant(name):
            result.activations[name] = root
            _link_scales(index, name, result)


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
