"""Names must be UTF-8: protobuf hands out raw bytes where they are not, and nothing downstream expects that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgeattn.errors import BadInput

if TYPE_CHECKING:
    import onnx


def check_text(model: onnx.ModelProto, where: str) -> None:
    """Check every name in a model, wherever it stands.

    Raises:
        BadInput: one is not UTF-8.
    """
    for text in _of_model(model):
        if type(text) is not str:
            shown = repr(text[:40])[2:-1]
            raise BadInput(f"holds the name '{shown}', which is not UTF-8", where=where, hint="export the model again")


def _of_model(model: onnx.ModelProto) -> Iterator[Any]:
    yield from (model.producer_name, model.producer_version, model.domain, model.doc_string)
    for opset in model.opset_import:
        yield opset.domain
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from (function.name, function.domain, function.overload, *function.input, *function.output)
        yield from (*function.attribute, *(opset.domain for opset in function.opset_import))
        yield from _of_nodes(function.node)
        for attribute in function.attribute_proto:
            yield from _of_attribute(attribute)


def _of_graph(graph: onnx.GraphProto) -> Iterator[Any]:
    yield from (graph.name, graph.doc_string)
    for values in (graph.input, graph.output, graph.value_info):
        for value in values:
            yield value.name
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for tensor in graph.initializer:
        yield from _of_tensor(tensor)
    for sparse in graph.sparse_initializer:
        yield from (*_of_tensor(sparse.values), *_of_tensor(sparse.indices))
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, node.overload, node.doc_string, *node.input, *node.output)
        for attribute in node.attribute:
            yield from _of_attribute(attribute)


def _of_attribute(attribute: onnx.AttributeProto) -> Iterator[Any]:
    yield from (attribute.name, attribute.ref_attr_name, attribute.doc_string)
    for tensor in (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors):
        yield from _of_tensor(tensor)
    for sparse in (
        *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
        *attribute.sparse_tensors,
    ):
        yield from (*_of_tensor(sparse.values), *_of_tensor(sparse.indices))
    for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
        yield from _of_graph(graph)


def _of_tensor(tensor: onnx.TensorProto) -> Iterator[Any]:
    yield from (tensor.name, tensor.doc_string)
    for pair in tensor.external_data:
        yield from (pair.key, pair.value)
