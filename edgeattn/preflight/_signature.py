"""Whether a node is written as its operator is: inputs, outputs and attributes. Later code indexes them freely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgeattn.errors import BadInput, printable
from edgeattn.preflight._tensors import label

if TYPE_CHECKING:
    import onnx


def check_signatures(nodes: list[onnx.NodeProto], version: int, where: str) -> None:
    """Check every node of a standard operator against the schema of the model's opset.

    Raises:
        BadInput: inputs or outputs missing or too many, an attribute missing or of another type.
    """
    import onnx

    schemas: dict[str, onnx.defs.OpSchema] = {}
    for node in nodes:
        if node.domain in ("", "ai.onnx"):
            if node.op_type not in schemas:
                schemas[node.op_type] = onnx.defs.get_schema(node.op_type, version, "")
            if what := _fault(node, schemas[node.op_type]):
                raise BadInput(f"{label(node)} {what}", where=where, hint="export it again")


def _fault(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> str:
    """What is wrong with a node, or an empty string."""
    for kind, values, least, most in (
        ("input", node.input, schema.min_input, schema.max_input),
        ("output", node.output, schema.min_output, schema.max_output),
    ):
        if not least <= len(values) <= most:
            wanted = str(least) if least == most else f"{least} to {most}" if most < 1 << 20 else f"at least {least}"
            return f"has {len(values)} {kind}s and takes {wanted}"
    # Of the formal inputs those that may be left out say so; an empty name in place of another is a missing value.
    for formal, name in zip(schema.inputs, node.input, strict=False):
        if not name and formal.option == formal.option.Single:
            return f"lacks its input '{formal.name}'"
    return _wrong_attribute(node, schema)


def _wrong_attribute(node: onnx.NodeProto, schema: onnx.defs.OpSchema) -> str:
    given = {attribute.name for attribute in node.attribute}
    for name, known in schema.attributes.items():
        if known.required and name not in given:
            return f"lacks its {name}"
    for attribute in node.attribute:
        formal = schema.attributes.get(attribute.name)
        # Type 0 stands in files of before types were written down; what the operator does not know, nobody reads.
        kind: Any = formal and formal.type  # an enum of the native module, whose stubs do not say so
        if formal is not None and attribute.type not in (0, kind.value):
            return f"has {printable(attribute.name, 40)} of another type than {kind.name.lower()}"
    return ""
