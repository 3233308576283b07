"""Opset 18 -> 17 (TensorRT 8.5, JetPack 5): what the exporter's own converters leave at 18 or get wrong.

Between the two, operators that take part in our graphs changed in three ways: the axes of reductions moved from an
attribute to an input, Split took ``num_outputs``, and Pad took optional axes. Any other operator whose definition
changed is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgeattn.errors import Unsupported
from edgeattn.graphs import GraphIndex, attributes

if TYPE_CHECKING:
    import onnx


def to_opset_17(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy at opset 17 that computes the same.

    Raises:
        Unsupported: an operator that opset 17 does not have in this form; the hint is to stay at 18.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    index = GraphIndex(result)
    for node in result.graph.node:
        if node.domain in ("", "ai.onnx") and _changed(node.op_type):
            mend = _MENDS.get(node.op_type)
            if mend is None or not mend(node, index):
                raise Unsupported(
                    f"{node.op_type} has no form in opset 17 that computes this", where=node.name, hint="use --opset 18"
                )
    for opset in result.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = 17
    _drop_unused(result)
    return result


def _changed(op_type: str) -> bool:
    """Whether an operator's definition differs between opsets 17 and 18, or is new in 18."""
    import onnx

    if not onnx.defs.has(op_type, 18, ""):
        return False
    now = onnx.defs.get_schema(op_type, 18, "").since_version
    return not onnx.defs.has(op_type, 17, "") or onnx.defs.get_schema(op_type, 17, "").since_version != now


def _axes_to_attribute(node: onnx.NodeProto, index: GraphIndex) -> bool:
    import onnx

    axes = index.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    if len(node.input) > 1 and node.input[1] and axes is None:
        return False
    if axes is None and attributes(node).get("noop_with_empty_axes"):
        return False
    kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
    del node.attribute[:]
    node.attribute.extend(kept)
    if axes is not None:
        node.attribute.append(onnx.helper.make_attribute("axes", [int(a) for a in axes]))
    del node.input[1:]
    return True


def _drop_num_outputs(node: onnx.NodeProto, index: GraphIndex) -> bool:
    """Without sizes, Split-13 divides evenly by the number of its outputs, as ``num_outputs`` does when it divides."""
    if "num_outputs" not in attributes(node):
        return True
    shape = index.shape(node.input[0])
    axis = attributes(node).get("axis", 0)
    size = shape[axis] if shape else None
    if not isinstance(size, int) or size % len(node.output):
        return False
    kept = [a for a in node.attribute if a.name != "num_outputs"]
    del node.attribute[:]
    node.attribute.extend(kept)
    return True


def _pad_without_axes(node: onnx.NodeProto, index: GraphIndex) -> bool:
    return len(node.input) < 4 or not node.input[3]


_MENDS: dict[str, Callable[[onnx.NodeProto, GraphIndex], bool]] = {
    **{
        f"Reduce{kind}": _axes_to_attribute
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    },
    "Split": _drop_num_outputs,
    "Pad": _pad_without_axes,
}


def _drop_unused(model: onnx.ModelProto) -> None:
    """Axes that became attributes leave their initializers behind."""
    used = {name for node in model.graph.node for name in node.input} | {v.name for v in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
