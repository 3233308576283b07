"""Which nodes of a float graph compute in FP16 or BF16, and why the others do not. Pure: reads a graph, decides.

A node that *must* stay in FP32 has a reason: its operator, what it reads or writes, its schema, or the user's word. A
layer with weights that has none computes in the low type. What lies between may do either, and is labelled so that the
graph needs the fewest Casts: a minimum cut between the FP32 side (graph inputs and outputs, nodes with reasons) and
the low side (layers with weights), where cutting a value costs its one, shared Cast. Of several such cuts the one with
the fewest nodes in FP32 is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgeattn import graphs
from edgeattn.graphs import GraphIndex, attributes
from edgeattn.quantize._flow import ENDLESS, Flow
from edgeattn.quantize._policy import matches
from edgeattn.rounding import FLOAT
from edgeattn.standard import all_nodes

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array
    from edgeattn.quantize._measure import Seen

_LAYERS = (*graphs.MAC_OPS, "BatchNormalization", "Einsum")
# Answers that a rounding could turn, and conversions: what they read is given to them as it was computed.
_EXACT = {"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "ArgMax", "ArgMin", "TopK", "NonZero", "Cast"}
_EXACT |= {"IsNaN", "IsInf", "Shape", "Size", "CastLike", "QuantizeLinear", "NonMaxSuppression", "Round", "Floor"}
_EXACT |= {"Ceil", "Mod", "Unique", "OneHot", "Range"}
_PIECE = 1 << 20  # elements
_SUMS = ("ReduceMean", "GlobalAveragePool", "AveragePool")


@dataclass(frozen=True)
class Kind:
    """A low floating-point type and what it is not good for.

    Attributes:
        name: ``fp16`` or ``bf16``. label: as people write it. element: ``TensorProto.DataType``.
        largest: its largest number.
        digits: ‖x − rounded x‖ / ‖x‖ of values it holds well is below this.
        whole: it holds every whole number up to this.
        operators: operator -> why it stays in FP32.
        ranged: its range is so narrow that values have to be measured.
        opset: graphs of opset 18 and newer are raised to this one, in which more operators have the type.
    """

    name: str
    label: str
    element: int
    largest: float
    digits: float
    whole: int
    operators: Mapping[str, str]
    ranged: bool
    opset: int = 0

    def rounded(self, array: Array) -> Array:
        """The array in this type."""
        from onnx import helper

        with np.errstate(over="ignore"):
            return array.astype(helper.tensor_dtype_to_np_dtype(self.element))


@dataclass
class Typing:
    """The decision for one graph.

    Attributes:
        low: indices of the nodes that compute in the low type.
        why: node name -> why it stays in FP32, for those that a user might wonder about.
        inputs: node index -> positions of the inputs it reads in the low type; outputs: of those it writes so.
    """

    low: set[int] = field(default_factory=set)
    why: dict[str, str] = field(default_factory=dict)
    inputs: dict[int, list[int]] = field(default_factory=dict)
    outputs: dict[int, list[int]] = field(default_factory=dict)


def decide(
    model: onnx.ModelProto, kind: Kind, opset: int, keep: tuple[str, ...], seen: Mapping[str, Seen] | None = None
) -> Typing:
    """Label every node of a graph.

    Args:
        model: in float32, its constants as initializers.
        kind: the low type. opset: what the result will be written in.
        keep: patterns of nodes and modules that stay in FP32.
        seen: what was measured of the values; None before measuring.
    """
    index, types, result = GraphIndex(model), graphs.element_types(model), Typing()
    fixed: set[int] = set()
    constants: dict[str, str] = {}
    for i, node in enumerate(index.nodes):
        result.inputs[i], result.outputs[i] = _typed_sides(node, types, kind, opset)
        why = _why_float(index, node, kind, keep, types) or _why_schema(node, result, i, types, kind, opset)
        why = why or _why_constant(index, node, result.inputs[i], kind, constants)
        why = why or (_why_range(index, node, kind, seen) if seen else "")
        if why:
            fixed.add(i)
            if why != _SILENT:
                result.why[node.name or node.output[0]] = why
    result.low = _fewest_casts(index, result, fixed)
    return result


_SILENT = "computes no float that could be narrower"


def _why_float(
    index: GraphIndex, node: onnx.NodeProto, kind: Kind, keep: tuple[str, ...], types: Mapping[str, int]
) -> str:
    if any(a.HasField("g") or a.graphs for a in node.attribute):
        return "its body stays as it is"
    if node.op_type in _EXACT or not any(types.get(name) == FLOAT for name in node.output):
        return _SILENT
    if any(matches(node, pattern) for pattern in keep):
        return "kept by request"
    return kind.operators.get(node.op_type, "")


def _why_schema(node: onnx.NodeProto, result: Typing, i: int, types: Mapping[str, int], kind: Kind, opset: int) -> str:
    """What the operator's own definition has to say; a value whose type is unknown is left alone."""
    if not any(types.get(name) == FLOAT for name in node.input):
        return _SILENT
    if any(name and name not in types for name in (*node.input, *node.output)):
        return "the type of a value that it reads or writes cannot be inferred"
    if not result.inputs[i] or not result.outputs[i]:
        return f"opset {opset} has no {kind.label} {node.op_type}"
    return ""


def _typed_sides(node: onnx.NodeProto, types: Mapping[str, int], kind: Kind, opset: int) -> tuple[list[int], list[int]]:
    """Positions of a node's float inputs and outputs that may be of the low type, by its schema."""
    from onnx import TensorProto, defs

    if not defs.has(node.op_type, opset, ""):
        return [], []
    schema = defs.get_schema(node.op_type, opset, "")
    wanted = f"tensor({TensorProto.DataType.Name(kind.element).lower()})"
    allowed = {c.type_param_str for c in schema.type_constraints if wanted in c.allowed_type_strs}

    def sides(names: Iterable[str], formal: list[defs.OpSchema.FormalParameter]) -> Iterator[tuple[int, str]]:
        for position, name in enumerate(names):
            variable = formal[min(position, len(formal) - 1)].type_str if formal else ""
            if types.get(name) == FLOAT and variable in allowed:
                yield position, variable

    inputs = list(sides(node.input, list(schema.inputs)))
    bound = {variable for _, variable in inputs}
    outputs = [position for position, variable in sides(node.output, list(schema.outputs)) if variable in bound]
    return [position for position, _ in inputs], outputs


def _why_constant(
    index: GraphIndex, node: onnx.NodeProto, positions: list[int], kind: Kind, known: dict[str, str]
) -> str:
    for name in (node.input[p] for p in positions):
        if name not in known and index.is_constant(name):
            value = index.constant(name)
            known[name] = "" if value is None else _lost_constant(value, kind)
        if known.get(name):
            return known[name]
    return ""


def _lost_constant(value: Array, kind: Kind) -> str:
    """Why a constant has to stay in FP32: too large, too small, or a whole number that would become another."""
    flat, peak, power, lost, whole = value.reshape(-1), 0.0, 0.0, 0.0, True
    for start in range(0, flat.size, _PIECE):  # in float64, so piece by piece
        piece = flat[start : start + _PIECE]
        finite = piece[np.isfinite(piece)].astype(np.float64)
        error = finite - kind.rounded(finite.astype(np.float32)).astype(np.float64)
        peak = max(peak, float(np.abs(finite).max(initial=0.0)))
        power, lost = power + float(finite @ finite), lost + float(error @ error)
        whole = whole and bool((finite == np.rint(finite)).all())
    if peak > kind.largest:
        return f"reads a constant of {peak:.3g}, beyond {kind.label}'s {kind.largest:.4g}"
    if peak > kind.whole and lost and whole:
        return f"reads whole numbers up to {peak:.0f}, of which {kind.label} holds each up to {kind.whole}"
    if lost > kind.digits**2 * power:
        return f"reads a constant of {peak:.3g}, too small for {kind.label} to hold well"
    return ""


def _why_range(index: GraphIndex, node: onnx.NodeProto, kind: Kind, seen: Mapping[str, Seen]) -> str:
    """What the node's values did on the reference's cases."""
    for name in (*node.input, *node.output):
        found = seen.get(name)
        if found is None:
            continue
        if found.peak > kind.largest / 2:
            return f"a value reaches {found.peak:.3g} on the reference's cases, {kind.label} ends at {kind.largest:.4g}"
        if found.loss > kind.digits:
            return f"a value loses {found.loss:.1%} in {kind.label}: it lies below {kind.label}'s normal numbers"
    inside = _inside(node, seen)
    if inside > kind.largest / 2:
        return f"it adds up to {inside:.3g} on the reference's cases, {kind.label} ends at {kind.largest:.4g}"
    return ""


def _inside(node: onnx.NodeProto, seen: Mapping[str, Seen]) -> float:
    """The largest number inside a reduction that its result does not show: the sum under a mean, a square's sum."""
    source, result = seen.get(node.input[0]), seen.get(node.output[0])
    if source is None or result is None or not result.size:
        return 0.0
    if node.op_type in _SUMS:
        kernel = attributes(node).get("kernel_shape")
        return result.peak * (float(np.prod(kernel)) if kernel else source.size / result.size)
    return result.peak**2 if node.op_type == "ReduceL2" else 0.0


def _fewest_casts(index: GraphIndex, result: Typing, fixed: set[int]) -> set[int]:
    """Nodes that compute in the low type; ``fixed`` must not."""
    flow = Flow()
    float_side, low_side = -1, -2
    layers = {i for i, n in enumerate(index.nodes) if i not in fixed and _is_layer(index, n)}
    for i in fixed:
        flow.add((float_side, i), ENDLESS)
    for i in layers:
        flow.add((i, low_side), ENDLESS)
    producer = {name: i for i, n in enumerate(index.nodes) for name in n.output if name}
    readers: dict[str, set[int]] = {}
    for i, node in enumerate(index.nodes):
        for name in reads(node):
            readers.setdefault(name, set()).add(i)
    typed = _typed_values(index, result)
    for extra, value in enumerate(sorted(typed), start=len(index.nodes)):
        source = _writer(index, producer, result, value, float_side)
        users = readers.get(value, set()) | ({float_side} if value in index.outputs else set())
        narrowing, widening = ("narrow", extra), ("wide", extra)
        flow.add((source, narrowing), 1)
        flow.add((widening, source), 1)
        for user in users:
            reads_low = user == float_side or value in {index.nodes[user].input[p] for p in result.inputs[user]}
            flow.add((user if reads_low else float_side, widening), ENDLESS)
            if reads_low and user != float_side:
                flow.add((narrowing, user), ENDLESS)
    in_float = flow.source_side(float_side, low_side)
    return {i for i in range(len(index.nodes)) if i not in in_float and i not in fixed}


def _writer(index: GraphIndex, producer: Mapping[str, int], result: Typing, value: str, float_side: int) -> int:
    """The node whose label says how a value is written; the FP32 side where it is always FP32."""
    i = producer.get(value, float_side)
    always = i == float_side or value not in {index.nodes[i].output[p] for p in result.outputs[i]}
    return float_side if always else i


def _typed_values(index: GraphIndex, result: Typing) -> set[str]:
    """Values, not constants, that some node could read or write in the low type."""
    values: set[str] = set()
    for i, node in enumerate(index.nodes):
        values |= {node.input[p] for p in result.inputs[i]} | {node.output[p] for p in result.outputs[i]}
    return {name for name in values if not index.is_constant(name)}


def _is_layer(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """Multiplies or looks up: its time and its weights are what the low type is for."""
    return node.op_type in _LAYERS or (node.op_type == "Gather" and index.is_constant(node.input[0]))


def reads(node: onnx.NodeProto) -> set[str]:
    """Values a node reads, those that graphs inside it capture among them (and some that they make themselves)."""
    inner = (name for a in node.attribute for g in (a.g, *a.graphs) for n in all_nodes(g) for name in n.input)
    captured = (v.name for a in node.attribute for g in (a.g, *a.graphs) for v in g.output)
    return {name for name in (*node.input, *inner, *captured) if name}
