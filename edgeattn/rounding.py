"""What FP16 and BF16 graphs compute, seen on a CPU that has no such arithmetic: every operator's result is rounded.

ONNX Runtime's CPU engine computes an FP16 graph in FP32 and drops the Casts between: 40000 + 40000 halved is 40000
there, and infinite on a machine that really adds in FP16. It runs no BF16 graph at all. ``visible`` rewrites a typed
graph into FP32 in which every value that FP16 or BF16 would hold is rounded to that type and back, so that overflow,
underflow and lost digits are seen on any machine. Sums inside one operator are as wide as the engine's: hardware
accumulates in FP32 too, where it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgeattn import graphs, outside
from edgeattn.errors import Unsupported, printable
from edgeattn.standard import all_nodes

if TYPE_CHECKING:
    import onnx

FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16  # TensorProto.DataType
NAMES = {FLOAT16: "fp16", BFLOAT16: "bf16"}


def types_in(model: onnx.ModelProto) -> set[str]:
    """Which of ``fp16`` and ``bf16`` a graph stores, casts to, or takes and gives."""
    kinds = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    kinds |= {tensor.data_type for tensor in model.graph.initializer}
    for node in all_nodes(model.graph):
        kinds |= {a.t.data_type for a in node.attribute if a.HasField("t")}
        kinds |= {a.i for a in node.attribute if a.name == "to" and node.op_type == "Cast"}
    return {name for kind, name in NAMES.items() if kind in kinds}


def visible(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph that computes what a typed one does, each result rounded; itself where nothing is typed.

    Raises:
        Unsupported: FP16 or BF16 inside the body of an If, Loop or Scan.
    """
    import onnx

    if not types_in(model):
        return model
    types = graphs.element_types(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.value_info[:]
    del graph.node[:]
    widened: dict[str, str] = {}
    for value in graph.input:
        if value.type.tensor_type.elem_type in NAMES:
            widened[value.name] = f"{value.name}_float"
            graph.node.append(_cast(value.name, widened[value.name], FLOAT))
    for tensor in graph.initializer:
        if tensor.data_type in NAMES:
            tensor.CopyFrom(_widened(tensor))
    for node in model.graph.node:
        graph.node.extend(_rounded(node, types, widened))
    graph.node.extend(
        _cast(widened[v.name], v.name, v.type.tensor_type.elem_type) for v in graph.output if v.name in widened
    )
    return result


def _rounded(node: onnx.NodeProto, types: dict[str, int], widened: dict[str, str]) -> Iterator[onnx.NodeProto]:
    """A node in float32, and behind each output that was narrower a Cast there and back."""
    import onnx

    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    _refuse_typed_body(node)
    copy.input[:] = [widened.get(name, name) for name in node.input]
    for attribute in copy.attribute:
        if attribute.HasField("t") and attribute.t.data_type in NAMES:
            attribute.t.CopyFrom(_widened(attribute.t))
        elif attribute.name in ("to", "dtype") and attribute.i in NAMES:
            attribute.i = FLOAT
    narrow = [name for name in node.output if types.get(name) in NAMES]
    copy.output[:] = [f"{name}_exact" if name in narrow else name for name in node.output]
    yield copy
    for name in narrow:
        widened[name] = f"{name}_float"
        yield _cast(f"{name}_exact", f"{name}_rounded", types[name])
        yield _cast(f"{name}_rounded", widened[name], FLOAT)


def _refuse_typed_body(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        for inner in all_nodes(attribute.g):
            if any(a.name == "to" and a.i in NAMES for a in inner.attribute):
                where = f"node '{printable(node.name or node.output[0], 80)}'"
                raise Unsupported(f"the body of a {node.op_type} computes in FP16 or BF16", where=where)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=kind)


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    import numpy as np
    from onnx import numpy_helper

    return numpy_helper.from_array(outside.array(tensor).astype(np.float32), tensor.name)
