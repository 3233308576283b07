"""Gates rewritten to read and compute less, for engines that ask for it. A float graph in, a float graph out.

Four identities, each exact up to the order of addition; where one does not fit, that part stays as it is:

1. The mean of ``W·r + b`` is ``W·mean(r) + b``: behind a pointwise convolution the mean reads what the convolution
   reads, a quarter of the channels in a bottleneck, and W is folded into the gate's first layer.
2. ``V·a + V·m = V·(a + m)``: the second layer of a shared MLP runs once, over the sum of what its branches hide.
3. The largest value of a map is the largest of its rows' largest: poolings, which engines run on INT8 as it lies and
   side by side, where a reduction over a whole map unpacks it and has one value a channel to share out.
4. A k×k convolution of two planes W wide is a k×1 convolution from 2W to W channels whose weights are a band
   (a Toeplitz matrix): engines fill their lanes with channels, of which the planes have two.

(1: SE, Hu et al. 2018, equation 2. 2: CBAM, Woo et al. 2018, equation 2. 4: equation 3 there.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.graphs import GraphIndex, attributes
from edgeattn.quantize._gates import plain, pointwise

if TYPE_CHECKING:
    import onnx

    from edgeattn.program import Array
    from edgeattn.recognise import Attention

# Positions in a row: below, the convolution is too short to gain from it (14: 6 us, its band 1 us and two Transposes);
# above, the band's products, which grow with the width, meet what the empty lanes cost. (OpenVINO 2026.4.1, 1 thread.)
_BAND = (20, 64)


@dataclass(frozen=True)
class Light:
    """A float graph with lighter gates.

    Attributes:
        model: the graph. found: its attention, with the nodes that were added.
        gates: those that became lighter.
        floats: output of an added layer that stays in float -> why.
    """

    model: onnx.ModelProto
    found: tuple[Attention, ...]
    gates: tuple[str, ...]
    floats: Mapping[str, str]


@dataclass
class _Edit:
    """A graph being rewritten: new nodes by the output of the node whose place they take."""

    index: GraphIndex
    taken: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    floats: dict[str, str] = field(default_factory=dict)

    def node(self, op: str, inputs: Sequence[str], output: str, **given: Any) -> onnx.NodeProto:
        from onnx import helper

        return helper.make_node(op, [name for name in inputs if name], [output], name=output, **given)

    def const(self, name: str, array: Array) -> str:
        self.constants[name] = np.ascontiguousarray(array, np.float32)
        return name

    def only_reader(self, value: str, *operators: str) -> onnx.NodeProto | None:
        """The one node that reads a value, if it is of these types and no one outside reads it."""
        readers = self.index.consumers.get(value, [])
        fits = len(readers) == 1 and readers[0].op_type in operators and value not in self.index.outputs
        return readers[0] if fits else None


def lighten(model: onnx.ModelProto, found: Sequence[Attention]) -> Light:
    """The graph with lighter gates; the one given where none can be lighter.

    The values that ``found`` names (features, gates, results) keep their names and what they hold.
    """
    import onnx
    from onnx import numpy_helper

    edit = _Edit(GraphIndex(model))
    parts = [half for attention in found for half in (attention.parts or (attention,))]
    done = [part.gate for part in parts for step in _REWRITES.get(part.kind, ()) if step(edit, part)]
    gates = tuple(dict.fromkeys(done))
    if not gates:
        return Light(model, tuple(found), (), {})
    light = onnx.ModelProto()
    light.CopyFrom(model)
    del light.graph.node[:], light.graph.value_info[:]
    dropped: set[str] = set()
    for node in model.graph.node:
        if node.output[0] in edit.taken:
            dropped.update(node.input)
            for new in edit.taken[node.output[0]]:
                new.metadata_props.extend(node.metadata_props)
        light.graph.node.extend(edit.taken.get(node.output[0], [node]))
    dropped -= {name for node in light.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in dropped]
    del light.graph.initializer[:]
    light.graph.initializer.extend([*kept, *(numpy_helper.from_array(a, name) for name, a in edit.constants.items())])
    added = frozenset(name for made in edit.taken.values() for node in made for name in node.output)
    widened = tuple(replace(a, nodes=a.nodes | added) if a.family == "gate" else a for a in found)
    return Light(light, widened, gates, edit.floats)


def _mean_before(edit: _Edit, part: Attention) -> bool:
    """1, and 2 where the mean and the maximum share an MLP."""
    index = edit.index
    pools = [n for n in index.consumers.get(part.features, []) if n.op_type == "GlobalAveragePool"]
    writer = index.producer.get(part.features)
    if len(pools) != 1 or writer is None or writer.op_type != "Conv" or not pointwise(index, writer):
        return False
    mean, wide = pools[0], _dense(index, writer)
    reader = edit.only_reader(mean.output[0], "Conv", "Concat")
    first = reader if reader is None or reader.op_type == "Conv" else edit.only_reader(reader.output[0], "Conv")
    layer = None if first is None else _dense(index, first)
    if reader is None or first is None or layer is None or wide is None:
        return False
    folded = layer[0] @ wide[0], layer[1] + layer[0] @ wide[1]
    before = edit.node("GlobalAveragePool", [writer.input[0]], f"{mean.output[0]}/before")
    if reader is not first:
        return _both_branches(edit, before, mean, reader, first, (folded, layer))
    edit.taken[mean.output[0]] = [before]
    edit.taken[first.output[0]] = [_layer(edit, before.output[0], folded, first.output[0])]
    return True


_Dense = tuple["Array", "Array"]


def _both_branches(
    edit: _Edit,
    before: onnx.NodeProto,
    mean: onnx.NodeProto,
    joined: onnx.NodeProto,
    first: onnx.NodeProto,
    layers: tuple[_Dense, _Dense],
) -> bool:
    """``V·relu(A·mean) + V·relu(B·max)``, stacked by ``merge_shared_mlp``, as ``V·(relu(A·mean) + relu(B·max))``."""
    index = edit.index
    others = [name for name in joined.input if name != mean.output[0]]
    relu = edit.only_reader(first.output[0], "Relu")
    second = None if relu is None else edit.only_reader(relu.output[0], "Conv")
    weight = None if second is None else index.constant(second.input[1])
    if len(others) != 1 or attributes(joined)["axis"] != 2 or relu is None or second is None or weight is None:
        return False
    if weight.shape[2:] != (2, 1) or not np.array_equal(weight[:, :, 0], weight[:, :, 1]) or not plain(second):
        return False
    name, hidden, sides = first.output[0], [], []
    for which, value, layer in zip(("mean", "max"), (before.output[0], others[0]), layers, strict=True):
        sides.append(f"{name}/{which}_relu")
        hidden.append(_layer(edit, value, layer, f"{name}/{which}"))
        hidden.append(edit.node("Relu", [f"{name}/{which}"], sides[-1]))
    edit.taken |= {mean.output[0]: [before], joined.output[0]: [], relu.output[0]: []}
    edit.taken[name] = [*hidden, edit.node("Add", sides[::-1], f"{name}/sum")]
    last = weight[:, :, 0, 0], _bias(index, second)
    edit.taken[second.output[0]] = [_layer(edit, f"{name}/sum", last, second.output[0])]
    return True


def _largest_by_rows(edit: _Edit, part: Attention) -> bool:
    """3."""
    size = (edit.index.shape(part.features) or ())[2:]
    pools = [n for n in edit.index.consumers.get(part.features, []) if n.op_type == "GlobalMaxPool"]
    if len(pools) != 1 or len(size) != 2 or not all(isinstance(d, int) for d in size):
        return False
    output = pools[0].output[0]
    edit.taken[output] = [
        edit.node("MaxPool", [part.features], f"{output}/rows", kernel_shape=[1, size[1]]),
        edit.node("MaxPool", [f"{output}/rows"], output, kernel_shape=[size[0], 1]),
    ]
    return True


def _as_band(edit: _Edit, part: Attention) -> bool:
    """4."""
    index = edit.index
    squash = index.producer[part.gate]
    conv = index.producer.get(squash.input[0]) if squash.input else None
    joined = index.producer.get(conv.input[0]) if conv is not None and conv.op_type == "Conv" else None
    if conv is None or joined is None or joined.op_type != "Concat" or attributes(joined)["axis"] != 1:
        return False
    planes, weight = index.shape(joined.output[0]) or (), index.constant(conv.input[1])
    if edit.only_reader(joined.output[0], "Conv") is None or weight is None or weight.shape[:2] != (1, 2):
        return False
    columns = planes[3] if len(planes) == 4 and len(joined.input) == 2 else None
    if not isinstance(columns, int) or not _BAND[0] <= columns <= _BAND[1] or not _keeps_size(conv, weight.shape):
        return False
    name, kernel = conv.output[0], weight.shape[2]
    inputs = [f"{name}/columns", edit.const(f"{name}/band", _band(weight[0], columns))]
    if len(conv.input) > 2 and conv.input[2]:
        inputs.append(edit.const(f"{name}/band_bias", np.full(columns, _bias(index, conv)[0])))
    half = kernel // 2
    edit.floats[f"{name}/rows"] = "narrow: it stands for 2 -> 1 channels"
    edit.taken[joined.output[0]] = []
    edit.taken[name] = [
        edit.node("Concat", joined.input, f"{name}/side_by_side", axis=3),
        edit.node("Transpose", [f"{name}/side_by_side"], f"{name}/columns", perm=[0, 3, 2, 1]),
        edit.node("Conv", inputs, f"{name}/rows", kernel_shape=[kernel, 1], pads=[half, 0, half, 0]),
        edit.node("Transpose", [f"{name}/rows"], name, perm=[0, 3, 2, 1]),
    ]
    return True


_REWRITES = {"se": (_mean_before,), "cam": (_mean_before, _largest_by_rows), "sam": (_as_band,)}


def _band(weight: Array, columns: int) -> Array:
    """Weights (2, k, k) of a convolution as those (columns, 2·columns, k, 1) of one that reads columns as channels."""
    size = weight.shape[-1]
    band = np.zeros((columns, 2, columns, size), np.float32)
    for offset in range(size):
        for out in range(columns):
            read = out + offset - size // 2
            if 0 <= read < columns:
                band[out, :, read] = weight[:, :, offset]
    return band.reshape(columns, 2 * columns, size, 1)


def _keeps_size(node: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    """Whether a convolution has a square kernel of odd size and gives a map as large as it reads."""
    given, (height, width) = attributes(node), shape[2:]
    ones = all(set(given.get(name, [1])) == {1} for name in ("strides", "dilations"))
    return ones and height == width and height % 2 == 1 and list(given.get("pads", [0] * 4)) == [height // 2] * 4


def _dense(index: GraphIndex, node: onnx.NodeProto) -> _Dense | None:
    """A pointwise convolution's weights (O, I) and bias (O)."""
    weight = index.constant(node.input[1])
    if weight is None or not pointwise(index, node):
        return None
    return weight[:, :, 0, 0], _bias(index, node)


def _bias(index: GraphIndex, node: onnx.NodeProto) -> Array:
    stored = index.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if stored is not None:
        return stored
    return np.zeros((index.constant_shape(node.input[1]) or (0,))[0], np.float32)


def _layer(edit: _Edit, value: str, layer: _Dense, output: str) -> onnx.NodeProto:
    weight, bias = layer
    names = [edit.const(f"{output}/weight", weight[:, :, None, None])]
    if bias.any():
        names.append(edit.const(f"{output}/bias", bias))
    return edit.node("Conv", [value, *names], output, kernel_shape=[1, 1])
