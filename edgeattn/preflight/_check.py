"""What a model in memory must be: in range, whole, acyclic, of standard operators, with inputs numpy can hold."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from edgeattn import outside
from edgeattn.errors import BadInput, Unsupported, printable
from edgeattn.preflight._functions import check_functions
from edgeattn.preflight._nodes import check_constants, check_operators, check_values, every_node
from edgeattn.preflight._signature import check_signatures
from edgeattn.preflight._tensors import all_tensors, check_outside, check_tensor
from edgeattn.preflight._topology import check_topology
from edgeattn.standard import OPSETS

if TYPE_CHECKING:
    import onnx

IR_FROM = 3  # the first version with opset_import
_HINT = "export the model again, with opset 18"
_STANDARD = ("", "ai.onnx")
_KINDS = {
    "sequence_type": "sequence",
    "map_type": "map",
    "optional_type": "optional",
    "sparse_tensor_type": "sparse tensor",
    "opaque_type": "opaque",
}


def check_model(model: onnx.ModelProto, where: str) -> list[str]:
    """Check a model that is complete in memory.

    Args:
        model: where its external data lies is settled.
        where: the file it came from, for messages.

    Returns:
        Warnings, a line each: tensors that hold NaN or infinities.

    Raises:
        BadInput: it is malformed; names the tensor or node.
        Unsupported: a version, operator or input type that is not supported; names it and the range.
        OutOfResources: its functions expand to too many nodes.
    """
    if not model.HasField("graph"):
        raise BadInput("holds no graph", where=where, hint=_HINT)
    _versions(model, where)
    if not model.graph.output:
        raise BadInput("its graph has no outputs", where=where, hint=_HINT)
    check_functions(model, where)
    check_topology(model, where)
    warnings = [w for name, tensor in all_tensors(model) if (w := _tensor(tensor, name, where))]
    nodes = list(every_node(model))
    check_operators(model, nodes, where)
    version = next(o.version for o in model.opset_import if o.domain in _STANDARD)
    check_signatures(nodes, version, where)
    for node in nodes:
        check_values(node, where)
    check_constants(model.graph, where)
    _interface(model.graph, where)
    return warnings


def _versions(model: onnx.ModelProto, where: str) -> None:
    import onnx

    newest = int(onnx.IR_VERSION)
    if not IR_FROM <= model.ir_version <= newest:
        what = f"has IR version {model.ir_version}; supported are {IR_FROM} to {newest}"
        raise Unsupported(what, where=where, hint=_HINT if model.ir_version <= newest else "upgrade onnx, or " + _HINT)
    supported = f"supported are {OPSETS[0]} to {OPSETS[-1]}"
    domains = Counter(opset.domain or "ai.onnx" for opset in model.opset_import)
    if "ai.onnx" not in domains:
        raise Unsupported(f"does not say its opset; {supported}", where=where, hint=_HINT)
    twice = [domain for domain, count in domains.items() if count > 1]
    if twice:
        raise BadInput(f"imports the operators of '{printable(twice[0], 80)}' twice", where=where, hint=_HINT)
    for opsets in (model.opset_import, *(function.opset_import for function in model.functions)):
        for opset in opsets:
            if opset.domain in _STANDARD and opset.version not in OPSETS:
                raise Unsupported(f"has opset {opset.version}; {supported}", where=where, hint=_HINT)


def _tensor(tensor: onnx.TensorProto, name: str, where: str) -> str | None:
    if tensor.data_location == tensor.EXTERNAL and any(p.key == outside.STAMP for p in tensor.metadata_props):
        return check_outside(tensor, name, where)
    if tensor.data_location == tensor.EXTERNAL:
        raise BadInput(f"{name} keeps its data in another file", where=where, hint="read it with its external data")
    return check_tensor(tensor, name, where)


def _interface(graph: onnx.GraphProto, where: str) -> None:
    """Inputs and outputs must be tensors that numpy holds, of known rank, none of them empty."""
    import onnx

    stored = {tensor.name for tensor in graph.initializer}
    for role, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            if value.name in stored and role == "input":
                continue
            name = f"{role} '{printable(value.name, 80)}'"
            kind = value.type.WhichOneof("value")
            if kind is None:
                raise BadInput(f"{name} has no type", where=where, hint=_HINT)
            if kind != "tensor_type":
                what = f"{name} is a {_KINDS.get(kind, kind)}, and edgeattn takes tensors only"
                raise Unsupported(what, where=where, hint="cut the graph at a tensor")
            number = value.type.tensor_type.elem_type
            if number not in (*range(1, 8), *range(9, 14)):
                known = number in onnx.TensorProto.DataType.values()
                word = onnx.TensorProto.DataType.Name(number).lower() if known else f"type {number}"
                what = f"{name} is {word}, which numpy does not have"
                raise Unsupported(what, where=where, hint="export it with float32 inputs and outputs")
            _shape(value, name, role, where)


def _shape(value: onnx.ValueInfoProto, name: str, role: str, where: str) -> None:
    kind = value.type.tensor_type
    if role == "input" and not kind.HasField("shape"):
        raise Unsupported(
            f"{name} has no rank", where=where, hint=f"export it with --shape {_word(value.name)}=1x3x224x224"
        )
    for dim in kind.shape.dim:
        size = dim.dim_value
        if dim.HasField("dim_value") and size < 0:
            raise BadInput(f"{name} has the negative dimension {size}", where=where, hint=_HINT)
        if role == "input" and dim.HasField("dim_value") and size == 0:
            hint = f"export it with --shape {_word(value.name)}=1x3x224x224"
            raise Unsupported(f"{name} has a dimension of 0", where=where, hint=hint)


def _word(name: str) -> str:
    return name if name.isidentifier() and len(name) < 40 else "NAME"
