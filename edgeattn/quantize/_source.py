"""What a scheme takes: a float32 program that nobody has quantized or typed before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeattn import graphs, rounding
from edgeattn.errors import Unsupported, printable
from edgeattn.standard import all_nodes

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Program

_INTEGER = {"ConvInteger", "MatMulInteger"}  # and every operator with QuantizeLinear in its name, or QLinear before it
_FLOATS = {10: "float16", 11: "float64", 16: "bfloat16", 17: "float8", 18: "float8", 19: "float8", 20: "float8"}


def assert_float32(program: Program) -> None:
    """Refuse what a scheme would quantize a second time, or whose weights are in another float type.

    Raises:
        Unsupported: the node or tensor is named.
    """
    for graph, model in program.graphs.items():
        where = f"graph '{graph}'"
        for node in all_nodes(model.graph):
            kind = node.op_type
            if kind in _INTEGER or kind.startswith("QLinear") or kind.lower().endswith("quantizelinear"):
                name = printable(node.name or node.output[0], 80)
                hint = "give the float32 model that it was made from"
                raise Unsupported(f"is quantized already ({kind}, node '{name}')", where=where, hint=hint)
        for name in graphs.packed_weights(model):
            hint = "give the float32 model that it was made from"
            raise Unsupported(f"is quantized already (weight '{printable(name, 80)}' is INT8)", where=where, hint=hint)
        for what, dtype in _other_floats(model):
            hint = "export it in float32: a lower type is chosen here, from there"
            raise Unsupported(f"{what} is {dtype}, and schemes start from float32", where=where, hint=hint)


def _other_floats(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    """Graph inputs, outputs and matrices that hold another float type than float32; scalars may."""
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            yield f"'{printable(value.name, 80)}'", _FLOATS[value.type.tensor_type.elem_type]
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS and len(tensor.dims) > 1:
            yield f"weight '{printable(tensor.name, 80)}'", _FLOATS[tensor.data_type]
    if narrow := rounding.types_in(model):
        yield "a value in it", " and ".join(sorted(narrow))
