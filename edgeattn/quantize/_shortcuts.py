"""Shortcuts past a gate, handed over in INT8. A float graph in, a float graph out; the same numbers.

Without a gate a block's last convolution adds the shortcut as it stores. Where a gate's product stands between, the sum
is a pass of its own, and OpenVINO has whoever wrote the shortcut write it twice: in INT8 for the next convolution, in
FP32, four times the bytes, for the sum. Behind a 1×1 MaxPool of stride 1, which copies, the sum reads INT8 too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgeattn.graphs import GraphIndex

if TYPE_CHECKING:
    import onnx

    from edgeattn.recognise import Attention


def hand_over(model: onnx.ModelProto, found: Sequence[Attention]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The graph with its shortcuts past gates copied, and which; the graph given where there is none."""
    import onnx
    from onnx import helper

    index = GraphIndex(model)
    shortcuts = {add.output[0]: value for add, value in _shortcuts(index, found)}
    if not shortcuts:
        return model, ()
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    for node in model.graph.node:
        value = shortcuts.get(node.output[0]) if node.output else None
        own = onnx.NodeProto()
        own.CopyFrom(node)
        if value is not None:
            copy, axes = f"{value}/copy", len(index.shape(value) or ()) - 2
            made = helper.make_node("MaxPool", [value], [copy], copy, kernel_shape=[1] * axes)
            made.metadata_props.extend(node.metadata_props)
            result.graph.node.append(made)
            own.input[list(node.input).index(value)] = copy
        result.graph.node.append(own)
    return result, tuple(shortcuts.values())


def _shortcuts(index: GraphIndex, found: Sequence[Attention]) -> Iterator[tuple[onnx.NodeProto, str]]:
    """The sum behind each gate's product, and its other side where a convolution reads that too."""
    seen: set[str] = set()
    for product in (a.result for a in found if a.family == "gate"):
        for add in index.consumers.get(product, []):
            others = [name for name in add.input if name != product]
            readers = index.consumers.get(others[0], []) if add.op_type == "Add" and len(others) == 1 else []
            convolved = any(reader.op_type == "Conv" for reader in readers)
            if convolved and len(index.shape(others[0]) or ()) > 2 and others[0] not in seen:
                seen.add(others[0])
                yield add, others[0]
