"""The 2-D middle of a channel gate: what lies between a pooled map (N, C, 1, 1) and the gate's last Reshape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeattn.rewrite._rule import Miss, miss
from edgeattn.rewrite._view import attr, const, dims, is_gate, made_by

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir

SHAPE_OPS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
LINEAR = ("Gemm", "MatMul")
POINTWISE = frozenset(
    {"Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "HardSwish", "Sigmoid", "HardSigmoid", "Tanh"}
    | {"Softplus", "Softsign", "Erf", "Clip", "Exp", "Neg", "Abs", "Sqrt", "Add", "Sub", "Mul", "Div", "Min", "Max"}
    | {"BatchNormalization", "Dropout", "Pow", "Reciprocal"}
)


@dataclass
class Region:
    """The 2-D part found so far: its nodes in reverse order, the 4-D values it starts from, and the first obstacle."""

    nodes: dict[ir.Node, None] = field(default_factory=dict)
    leaves: dict[ir.Value, ir.Value] = field(default_factory=dict)
    stop: Miss | None = None


def walk(value: ir.Value, region: Region) -> None:
    """Collect the nodes behind a 2-D value until every path reaches a (N, C, 1, 1) tensor."""
    node = value.producer()
    if region.stop is not None or value in region.leaves or node in region.nodes:
        return
    if node is None:
        region.stop = miss(f"'{value.name}' is fed as {dims(value)}, not pooled", None, len(region.nodes))
    elif node.domain == "" and node.op_type in SHAPE_OPS:
        _enter(value, node, region)
    elif not _liftable(node):
        region.stop = miss(f"{node.op_type} with these operands has no 4-D form here", node, len(region.nodes))
    else:
        region.nodes[node] = None
        for operand in moving(node):
            walk(operand, region)


def _enter(value: ir.Value, node: ir.Node, region: Region) -> None:
    """A shape operator: its 4-D source must be a pooled map with the same channels."""
    source, steps = node.inputs[0], 1
    while source is not None and len(dims(source) or ()) != 4:
        before = made_by(source, *SHAPE_OPS)
        source, steps = (before.inputs[0], steps + 1) if before is not None else (None, steps)
    shape, flat = dims(source), dims(value)
    if source is None or not is_gate(shape) or shape is None or flat is None or len(flat) != 2 or flat[1] != shape[1]:
        reason = f"it takes {shape or dims(node.inputs[0])} to {flat}; expected (N, C, 1, 1)"
        region.stop = miss(reason, node, len(region.nodes))
    else:
        region.leaves[value] = source


def _liftable(node: ir.Node) -> bool:
    if node.domain != "" or dims(node.outputs[0]) is None or len(dims(node.outputs[0]) or ()) != 2:
        return False
    if node.op_type == "Gemm":
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        b = const(bias)
        fits = bias is None or (b is not None and b.size in (1, b.shape[-1] if b.ndim else 1))
        fits = fits or (dims(bias) == dims(node.outputs[0]) and attr(node, "beta", 1.0) == 1.0)  # a sum, fused
        return not attr(node, "transA", 0) and const(node.inputs[1]) is not None and fits and bool(moving(node))
    if node.op_type == "MatMul":
        w = const(node.inputs[1])
        return w is not None and w.ndim == 2 and bool(moving(node))
    operands_fit = all(_per_channel(const(v)) for v in node.inputs if const(v) is not None)
    return node.op_type in POINTWISE and len(node.outputs) == 1 and operands_fit and bool(moving(node))


def _per_channel(array: np.ndarray[Any, Any] | None) -> bool:
    """Whether a constant is a scalar or one number a channel."""
    return array is not None and (array.size == 1 or array.size == array.shape[-1])


def moving(node: ir.Node) -> list[ir.Value]:
    """The operands that are not constants."""
    return [v for v in node.inputs if v is not None and const(v) is None]


def outside_reader(region: Region, anchor: ir.Node) -> ir.Node | None:
    """A node that reads a 2-D value of the region and is not part of it; the graph's output counts as one."""
    for node in region.nodes:
        value = node.outputs[0]
        if value.is_graph_output():
            return node
        for reader in value.consumers():
            if reader not in region.nodes and not _leads_to(reader, anchor):
                return reader
    return None


def _leads_to(node: ir.Node, anchor: ir.Node) -> bool:
    """Whether ``node`` is the anchor or a shape operator that only the anchor reads."""
    while node is not anchor and node.op_type in SHAPE_OPS and len(node.outputs[0].uses()) == 1:
        node = node.outputs[0].consumers()[0]
    return node is anchor


def in_order(region: Region) -> list[ir.Node]:
    """Producers before readers."""
    ordered: dict[ir.Node, None] = {}

    def visit(node: ir.Node) -> None:
        for value in moving(node):
            producer = value.producer()
            if producer is not None and producer in region.nodes and producer not in ordered:
                visit(producer)
        ordered[node] = None

    for node in region.nodes:
        if node not in ordered:
            visit(node)
    return list(ordered)
