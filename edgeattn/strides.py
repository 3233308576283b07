"""Strides moved up: what is thrown away behind is not computed before. A float graph in, a float graph out; exact.

A pointwise convolution of stride s reads one position in s. The map is thinned first, by a 1×1 MaxPool of that stride,
and the convolution reads what is left as it lies. Where all who read a map want it so, the thinning goes further up:
through activations, sums and products position by position, through a pointwise convolution, which then computes fewer
positions, and into a wider one, whose stride it becomes. In a ResNet that has the stride in its first 1×1 convolution
(He et al. 2016, section 3.3) the last block of each stage computes a quarter of its 3×3 convolution, of the 1×1 behind
it and of its sum.
A 1×1 MaxPool hands on what is finite as it is.

Left where it is, OpenVINO moves such a stride by itself, to between a quantized tensor and its scale, and then computes
the convolution in float.
"""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from edgeattn.graphs import GraphIndex, attributes

if TYPE_CHECKING:
    import onnx

_EVERYWHERE = ("Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Add", "Mul")  # computed position by position
_Stride = tuple[int, ...]
"""Of each spatial axis; empty for all of a map."""


def thin(model: onnx.ModelProto, *, past_gates: bool = True) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The graph with its strides moved up and the names of the maps that are thinned; else the graph given.

    A value that is computed thinned keeps its name; one that is thinned behind its writer is then ``NAME/thinned``.

    Args:
        model: a float graph.
        past_gates: through products of two computed values too. An attention gate reads the whole map that it
            multiplies, so that map is thinned beside the gate then, which costs a pass over it.
    """
    import onnx

    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        return model, ()  # a body may read what the graph holds without naming it among its inputs
    index = GraphIndex(model)
    if not any(pointwise_strided(index, node) for node in index.nodes):
        return model, ()
    needs = _Needs(index, past_gates)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:], result.graph.value_info[:]
    thinned: dict[str, None] = {}
    for node in model.graph.node:
        own = onnx.NodeProto()
        own.CopyFrom(node)
        for i, name in enumerate(node.input):
            stride = needs.read(node, name)
            if stride and needs.of(name) != stride:
                own.input[i] = f"{name}/thinned" + "".join(f"_{s}" for s in stride)
                if own.input[i] not in thinned:
                    result.graph.node.append(_pool(name, own.input[i], stride, node))
                    thinned[own.input[i]] = None
        if node.op_type == "Conv":
            _restride(needs, node, own)
        result.graph.node.append(own)
    moved = any(old != new for old, new in zip(model.graph.node, _without(result, thinned), strict=True))
    return (result, tuple(thinned)) if moved else (model, ())


def _without(model: onnx.ModelProto, values: Container[str]) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if not node.output or node.output[0] not in values]


class _Needs:
    """How sparsely each value of a graph is read: its stride, where all readers agree and its writer can follow."""

    def __init__(self, index: GraphIndex, past_gates: bool) -> None:
        self.index, self._past_gates = index, past_gates
        self._of: dict[str, _Stride] = {}
        for node in reversed(index.nodes):
            for name in node.output:
                readers = index.consumers.get(name, [])
                asked = {self.read(reader, name) for reader in readers}
                if name not in index.outputs and len(asked) == 1 and self._follows(node):
                    self._of[name] = asked.pop()

    def of(self, value: str) -> _Stride:
        """The stride at which a value is computed; empty where all of it is."""
        return self._of.get(value, ())

    def read(self, node: onnx.NodeProto, value: str) -> _Stride:
        """The stride at which a node reads a value; empty where it reads all."""
        behind = self.of(node.output[0])
        if node.op_type == "Conv":
            if value != node.input[0] or not _one_wide(self.index, node):
                return ()
            both = _times(_strides(self.index, node), behind)
            return both if any(stride > 1 for stride in both) else ()
        return behind if behind and self._as_large(node, value) else ()

    def _follows(self, node: onnx.NodeProto) -> bool:
        """Whether a node can compute a part of its positions; what others write is thinned behind them."""
        if node.op_type == "Conv":
            known = bool(_strides(self.index, node))
            return known and attributes(node).get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
        sides = [name for name in node.input if name]
        if node.op_type == "Mul" and not self._past_gates and not any(map(self.index.is_constant, sides)):
            return False
        return node.op_type in _EVERYWHERE and all(
            self._as_large(node, n) or self._one_position(node, n) for n in sides
        )

    def _as_large(self, node: onnx.NodeProto, value: str) -> bool:
        """Whether a value is proven to have the height and width of what a node computes."""
        if node.op_type not in ("Add", "Mul"):
            return bool(value == node.input[0])
        size, whole = self.index.shape(value) or (), self.index.shape(node.output[0]) or ()
        return len(size) == len(whole) > 2 and size[2:] == whole[2:] and all(whole[2:]) and "?" not in whole[2:]

    def _one_position(self, node: onnx.NodeProto, value: str) -> bool:
        """Whether a value is the same at every position: a gate a channel, a bound, a number."""
        size, rank = self.index.constant_shape(value), len(self.index.shape(node.output[0]) or ())
        size = self.index.shape(value) if size is None else size  # type: ignore[assignment]
        return size is not None and rank > 2 and all(d == 1 for d in size[-(rank - 2) :])


def pointwise_strided(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution that reads one position for each that it writes, and leaves positions out."""
    return node.op_type == "Conv" and _one_wide(index, node) and any(s > 1 for s in _strides(index, node))


def _restride(needs: _Needs, node: onnx.NodeProto, own: onnx.NodeProto) -> None:
    """Give a convolution the stride that is left to it: none where its input comes thinned, else what is read of it."""
    from onnx import helper

    behind, stride = needs.of(node.output[0]), _strides(needs.index, node)
    left = tuple(1 for _ in stride) if needs.read(node, node.input[0]) else _times(stride, behind)
    if left != stride:
        kept = [a for a in node.attribute if a.name != "strides"]
        del own.attribute[:]
        own.attribute.extend([*kept, helper.make_attribute("strides", left)])


def _pool(value: str, output: str, stride: _Stride, reader: onnx.NodeProto) -> onnx.NodeProto:
    from onnx import helper

    made = helper.make_node("MaxPool", [value], [output], output, kernel_shape=[1 for _ in stride], strides=stride)
    made.metadata_props.extend(reader.metadata_props)
    return made


def _times(stride: _Stride, behind: _Stride) -> _Stride:
    return tuple(a * b for a, b in zip(stride, behind, strict=True)) if behind else stride


def _strides(index: GraphIndex, node: onnx.NodeProto) -> _Stride:
    """A convolution's, empty where the rank of its weights is not known."""
    kernel = (index.constant_shape(node.input[1]) or ())[2:]
    return tuple(attributes(node).get("strides", [1 for _ in kernel]))


def _one_wide(index: GraphIndex, node: onnx.NodeProto) -> bool:
    """Whether a convolution reads one position for each that it writes."""
    kernel = (index.constant_shape(node.input[1]) or ())[2:]
    return bool(kernel) and set(kernel) == {1} and not any(attributes(node).get("pads", []))
