"""What of a graph stays float, and why: one decision for our own quantization and for those of others.

Tools that quantize by operator type do not see an attention gate: they quantize its pools, its MLP and its product, and
let a sigmoid share a scale with features, which leaves it 7 levels. A Policy says of each node whether it is worth
INT8; it can say the same in the words of NNCF (``IgnoredScope``) and of ONNX Runtime (``nodes_to_exclude``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from edgeattn.errors import UsageError, did_you_mean
from edgeattn.graphs import GraphIndex, attributes
from edgeattn.origin import module_of, origin_of
from edgeattn.quantize._products import GateProduct, products
from edgeattn.recognise import Attention, recognise

if TYPE_CHECKING:
    import onnx

WEIGHTED = ("Conv", "Gemm", "MatMul")
NARROW = 16  # INT8 kernels work on 16 and more channels; below, float is faster and more accurate
_NEVER = {  # their results need more than 8 bits, whatever the engine
    "Softmax": "softmax: weights near 0 need more than 8 bits",
    "LogSoftmax": "softmax: weights near 0 need more than 8 bits",
    "LayerNormalization": "normalization: a mean and a variance need more than 8 bits",
    "GroupNormalization": "normalization: a mean and a variance need more than 8 bits",
    "InstanceNormalization": "normalization: a mean and a variance need more than 8 bits",
    "Gelu": "GELU: its dip below zero is narrower than a step of its range",
}


@dataclass(frozen=True)
class Policy:
    """Decisions for the nodes of one graph; what is in neither field follows its neighbours.

    Attributes:
        gate: ``float`` keeps gates whole in float; ``int8`` quantizes their products and what of them is wide.
        int8: names of the weighted nodes that become INT8.
        floats: node name -> why it stays float.
        products: the multiplications by gates, whose range is known.
        attention: what the recogniser found.
        outputs: graph outputs by the name of the node that writes them.
        kept_weighted: output -> why, of those weighted nodes that stay float.
    """

    gate: str
    int8: tuple[str, ...]
    floats: Mapping[str, str]
    products: tuple[GateProduct, ...]
    attention: tuple[Attention, ...]
    outputs: Mapping[str, str]
    kept_weighted: Mapping[str, str]

    def ignored_scope(self) -> dict[str, Any]:
        """Arguments of ``nncf.IgnoredScope`` for the OpenVINO IR that is read from this ONNX graph.

        OpenVINO calls an operator after its ONNX node, one that writes a graph output after that output, and the
        product inside a layer with a bias ``NAME/WithoutBiases``; what is inside a LayerNormalization has no name.
        """
        names = sorted({n for name in self.floats for n in (name, self.outputs.get(name, name))})
        patterns = [f"^{re.escape(name)}(/WithoutBiases)?$" for name in names]
        return {"patterns": patterns, "types": ["MVN", "Softmax"], "validate": False}

    def nodes_to_exclude(self) -> list[str]:
        """``nodes_to_exclude`` of ``onnxruntime.quantization.quantize_static``."""
        return sorted(self.floats)

    def static_options(self) -> dict[str, Any]:
        """The other arguments of ``quantize_static``, for a graph that every engine takes.

        Symmetric, because TensorRT takes no other zero point than 0; biases in float, because it refuses INT32 ones.
        """
        extra = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
        return {"per_channel": True, "extra_options": extra}


def attention_policy(
    model: onnx.ModelProto,
    gate: str = "float",
    keep: Sequence[str] = (),
    floats: Mapping[str, str] | None = None,
    found: Sequence[Attention] | None = None,
) -> Policy:
    """What of a graph stays float, and why: weighted layers are INT8 unless narrow, inside a float gate, or kept.

    Args:
        model: a float graph.
        gate: ``float`` or ``int8``.
        keep: patterns of node or module names (:func:`matches`).
        floats: output of a layer that stays in float -> why, for schemes that find such layers themselves.
        found: the graph's attention, where it is known; by default it is recognised.
    """
    index = GraphIndex(model)
    found = tuple(recognise(model) if found is None else found)
    multiplied = tuple(products(index, found))
    gates = _inside(found, multiplied) if gate == "float" else set()
    int8, reasons, weighted = [], {}, {}
    for node in index.nodes:
        output = node.output[0] if node.output else ""
        name = node.name or output
        why = (floats or {}).get(output) or _why_float(index, node, gates, keep)
        if why:
            reasons[name] = why
        if node.op_type in WEIGHTED and not why:
            int8.append(name)
        elif node.op_type in WEIGHTED:
            weighted[output] = why
    outputs = {n.name or n.output[0]: o for n in index.nodes for o in n.output if o in index.outputs}
    return Policy(gate, tuple(int8), reasons, multiplied, found, outputs, weighted)


def _inside(found: Sequence[Attention], multiplied: Sequence[GateProduct]) -> set[str]:
    """Outputs of gates' nodes, from the pools to the product."""
    return {o for a in found if a.family == "gate" for o in a.nodes} | {p.output for p in multiplied}


def _why_float(index: GraphIndex, node: onnx.NodeProto, gates: set[str], keep: Sequence[str]) -> str:
    weighted = node.op_type in WEIGHTED
    shape = index.constant_shape(node.input[1]) if weighted else None
    if weighted and (shape is None or len(shape) < 2):
        return "its weights are computed, not stored"
    if node.output and node.output[0] in gates:
        return "inside an attention gate (policy gate=float)"
    if any(matches(node, pattern) for pattern in keep):
        return "kept by request"
    return _narrow(index, node, shape) if shape is not None else _NEVER.get(node.op_type, "")


def _narrow(index: GraphIndex, node: onnx.NodeProto, shape: tuple[int, ...]) -> str:
    outputs, inputs = channels(node, shape)
    reads_input = node.input[0] not in index.producer
    if outputs < NARROW or (inputs < NARROW and not reads_input and attributes(node).get("group", 1) == 1):
        return f"narrow: {inputs} -> {outputs} channels, INT8 pays from {NARROW}"
    return ""


def channels(node: onnx.NodeProto, shape: tuple[int, ...]) -> tuple[int, int]:
    """Output and input channels of a weighted layer."""
    transposed = node.op_type == "Conv" or bool(attributes(node).get("transB"))
    return (shape[0], shape[1]) if transposed else (shape[-1], shape[-2])


def node_names(node: onnx.NodeProto) -> list[str]:
    """What a user may call a node: its ONNX name, the source nodes it stands for, and each module it lies in."""
    scopes = [p.value for p in node.metadata_props if p.key in ("pkg.torch.onnx.name_scopes", "namespace")]
    told = [part.strip(" '\"[]").split(":")[0].strip() for s in scopes for part in s.replace("/", ",").split(",")]
    names = [node.name, *origin_of(node).nodes, *told, *_enclosing(module_of(node))]
    return list(dict.fromkeys(name for name in names if name))


def _enclosing(module: str) -> Iterator[str]:
    """``layer3.0.conv`` lies in ``layer3``, ``layer3.0`` and itself."""
    parts = module.split(".") if module else []
    yield from (".".join(parts[: n + 1]) for n in range(len(parts)))


def matches(node: onnx.NodeProto, pattern: str) -> bool:
    """Whether a keep pattern (``*`` matches anything) means this node, by its name or a module it lies in."""
    return any(fnmatchcase(name, pattern) for name in node_names(node))


def unmatched(models: Sequence[onnx.ModelProto], patterns: Sequence[str]) -> list[str]:
    """Keep patterns that match no node of any graph."""
    names = {name for model in models for node in model.graph.node for name in node_names(node)} if patterns else set()
    return [p for p in patterns if not any(fnmatchcase(name, p) for name in names)]


def refuse_unmatched(models: Sequence[onnx.ModelProto], patterns: Sequence[str]) -> None:
    """Refuse a keep pattern that no node has: a typo would silently quantize what was to be kept.

    Raises:
        UsageError: names the first such pattern and the nearest names.
    """
    for pattern in unmatched(models, patterns):
        nodes = [node for model in models for node in model.graph.node]
        names = {name for node in nodes for name in node_names(node)}
        near = did_you_mean(pattern.rstrip(".*"), names)
        if near.startswith("known"):  # modules say more than the first dozen of a thousand nodes
            near = did_you_mean(pattern, {module_of(node) for node in nodes} - {""} or names)
        hint = f"{near}; `edgeattn inspect` lists the names"
        raise UsageError(f"keep pattern '{pattern}' matches no node", where="--keep", hint=hint)
