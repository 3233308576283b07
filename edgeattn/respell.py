"""A graph said otherwise, for engines that lack a word: in an older opset, without an operator, with names of its own.

What the rewrite rules are for speed, these are for being understood: each gives a copy that computes the same, by
ONNX's own definitions. Whoever uses them judges the result on the program's cases.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from edgeattn.downgrade import to_opset_17
from edgeattn.errors import Unsupported
from edgeattn.graphs import opset_of
from edgeattn.phase import native
from edgeattn.standard import STANDARD_DOMAINS, all_nodes

if TYPE_CHECKING:
    import onnx

_OURS = 18  # from here to 17 our own converter is right where others are not


def expandable(op: str, opset: int) -> bool:
    """Whether ONNX defines an operator by others, so that it can be spelled out."""
    import onnx

    try:
        schema: Any = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def expanded(model: onnx.ModelProto, ops: Collection[str]) -> onnx.ModelProto:
    """A copy in which these operators are spelled out as ONNX defines them.

    Raises:
        Unsupported: ONNX cannot: it needs types that it cannot infer.
    """
    import onnx
    from onnx import inliner

    known = onnx.ModelProto()
    known.CopyFrom(model)
    for tensor in model.graph.initializer:  # what defines an operator asks for the types of its inputs
        info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        known.graph.value_info.append(info)
    wanted = [(domain, op) for op in ops for domain in STANDARD_DOMAINS]
    try:
        with native("ONNX", "spelling operators out"):
            known = onnx.shape_inference.infer_shapes(known)
            return inliner.inline_selected_functions(known, wanted, inline_schema_functions=True)
    except Exception as error:  # the inliner raises what it likes
        what = f"{', '.join(sorted(ops))} cannot be spelled out: {str(error).strip().splitlines()[-1]}"
        raise Unsupported(what, hint="export the model again with --opset 18") from error


def to_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """A copy at an older opset, by ONNX's converter, and by ours from 18 to 17.

    Raises:
        Unsupported: an operator has no such form there.
    """
    if opset_of(model) <= opset:
        return model
    if opset_of(model) > max(opset, _OURS):
        model = _by_onnx(model, max(opset, _OURS))
    return to_opset_17(model) if opset < _OURS else model


def _by_onnx(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    from onnx import version_converter

    try:
        with native("ONNX", "converting the opset"):
            return version_converter.convert_version(model, opset)
    except Exception as error:  # the converter raises what it likes
        what = f"opset {opset_of(model)} cannot be converted to {opset}: {str(error).strip().splitlines()[-1]}"
        raise Unsupported(what, hint="export the model again with --opset 18") from error


def with_own_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which no two nodes share a name."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken, counts = {node.name for node in all_nodes(copy.graph)}, Counter[str]()
    for node in all_nodes(copy.graph):
        counts[node.name] += 1
        number = counts[node.name]
        if node.name and number > 1:
            while f"{node.name}_{number}" in taken:
                number += 1
            node.name = f"{node.name}_{number}"
            taken.add(node.name)
    return copy
