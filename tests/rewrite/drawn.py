"""Attention drawn at random: mechanisms in the ways people spell them, node by node, without PyTorch."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgeattn.program import Case, Program, Reference

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL
SIZES = ({"batch": 1, "h": 5, "w": 4, "s": 3}, {"batch": 3, "h": 3, "w": 7, "s": 6})
LOWEST = float(np.finfo(np.float32).min)


class Drawn:
    """A graph that a failing test prints as text."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model

    def __repr__(self) -> str:
        return f"\n{onnx.printer.to_text(self.model)}\n"


class Net:
    """An ONNX graph under construction, which draws every choice it has."""

    def __init__(self, draw) -> None:
        self.draw = draw
        self.opset = self.pick(18, 11, 13, 17, 20)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.fed: list[str] = []  # constants that are graph inputs too
        self.inputs: dict[str, tuple[int, list]] = {}
        self.outputs: list[str] = []

    def pick(self, *options):
        return self.draw(st.sampled_from(options))

    def maybe(self) -> bool:
        return self.draw(st.booleans())

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"n_{name}", **attributes))
        return name

    def weight(self, *shape: int, positive: bool = False) -> str:
        """Seeded floats; now and then a Constant node, behind an Identity, or a default that a caller may replace."""
        numbers = 0.5 * np.random.default_rng(len(self.constants)).standard_normal(shape)
        where = self.pick("initializer", "initializer", "initializer", "node", "identity", "fed")
        return self.constant((np.abs(numbers) + 0.5 if positive else numbers).astype(np.float32), where)

    def constant(self, array: np.ndarray, where: str = "initializer") -> str:
        if where == "node":
            return self.op("Constant", value=numpy_helper.from_array(array))
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        if where == "fed":
            self.fed.append(name)
        return self.op("Identity", name) if where == "identity" else name

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64), self.pick("initializer", "node"))

    def over(self, kind: str, x: str, axes: tuple[int, ...], since: int = 18, **attributes) -> str:
        """An operator whose axes are an attribute before the opset ``since`` and an input from there on."""
        if self.opset < since:
            return self.op(kind, x, axes=list(axes), **attributes)
        return self.op(kind, x, self.ints(*axes), **attributes)

    def either_way(self, kind: str, a: str, b: str) -> str:
        return self.op(kind, *((a, b) if self.maybe() else (b, a)))

    def model(self) -> onnx.ModelProto:
        given = [helper.make_tensor_value_info(name, *spec) for name, spec in self.inputs.items()]
        given += [helper.make_tensor_value_info(name, FLOAT, self.constants[name].shape) for name in self.fed]
        results = [helper.make_tensor_value_info(name, FLOAT, None) for name in self.outputs]
        stored = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        graph = helper.make_graph(self.nodes, "drawn", given, results, stored)
        bare = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        return onnx.shape_inference.infer_shapes(bare, strict_mode=True)


def pool(net: Net, x: str, channels: int, kind: str, flat: bool) -> str:
    """The mean or maximum over H and W: (N, C) if ``flat``, else (N, C, 1, 1)."""
    reduction = {"mean": "ReduceMean", "max": "ReduceMax"}[kind]
    spelling = net.pick("global", "reduce", "view") if flat else net.pick("global", "reduce")
    if spelling == "view":
        rows = net.op("Reshape", x, net.ints(0, channels, -1))
        return net.over(reduction, rows, net.pick((2,), (-1,)), keepdims=0)
    if spelling == "reduce":
        return net.over(reduction, x, net.pick((2, 3), (-1, -2)), keepdims=int(not flat))
    pooled = net.op({"mean": "GlobalAveragePool", "max": "GlobalMaxPool"}[kind], x)
    return flatten(net, pooled, channels) if flat else pooled


def flatten(net: Net, x: str, channels: int) -> str:
    match net.pick("flatten", "reshape", "zero", "squeeze", "twice"):
        case "flatten":
            return net.op("Flatten", x)
        case "reshape":
            return net.op("Reshape", x, net.ints(-1, channels))
        case "zero":
            return net.op("Reshape", x, net.ints(0, -1))
        case "squeeze":
            return net.over("Squeeze", x, (2, 3), since=13)
    return net.over("Squeeze", net.over("Squeeze", x, (-1,), since=13), (-1,), since=13)


def unflatten(net: Net, x: str, channels: int) -> str:
    match net.pick("unsqueeze", "reshape", "twice"):
        case "unsqueeze":
            return net.over("Unsqueeze", x, (2, 3), since=13)
        case "reshape":
            return net.op("Reshape", x, net.ints(-1, channels, 1, 1))
    return net.over("Unsqueeze", net.over("Unsqueeze", x, (-1,), since=13), (-1,), since=13)


def layer(net: Net, inner: int, outer: int, kind: str):
    """One linear layer, as a function from value to value; calling it twice shares the weights."""
    biased, bias_first = net.maybe(), net.maybe()
    if kind == "conv":
        weight = net.weight(outer, inner, 1, 1)
        bias = [net.weight(outer)] if biased else []
        return lambda x: net.op("Conv", x, weight, *bias)
    if kind == "gemm":
        turned = net.maybe()
        weight = net.weight(*((outer, inner) if turned else (inner, outer)))
        factors = {"alpha": 0.5, "beta": 2.0} if net.maybe() else {}
        bias = [net.weight(outer)] if biased else []
        return lambda x: net.op("Gemm", x, weight, *bias, transB=int(turned), **factors)
    weight, bias = net.weight(inner, outer), [net.weight(outer)] if biased else []

    def matmul(x: str) -> str:
        product = net.op("MatMul", x, weight)
        return net.op("Add", *((*bias, product) if bias_first else (product, *bias))) if bias else product

    return matmul


def activation(net: Net, kind: str, x: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", x)) if kind == "silu" else net.op(kind, x)


def mlp(net: Net, channels: int, flat: bool):
    hidden, kind = net.pick(2, 3), net.pick("gemm", "matmul") if flat else "conv"
    first, second = layer(net, channels, hidden, kind), layer(net, hidden, channels, kind)
    act = net.pick("Relu", "silu", "Tanh")
    return lambda x: second(activation(net, act, first(x)))


def channel_gate(net: Net, x: str, channels: int, shared: dict) -> str:
    """SE or CBAM's channel attention; a gate of the same form before may lend its MLP."""
    flat, kinds = net.maybe(), net.pick(("mean",), ("mean", "max"), ("max", "mean"))
    if (flat, channels) not in shared or net.maybe():
        shared[flat, channels] = mlp(net, channels, flat)
    parts = [shared[flat, channels](pool(net, x, channels, kind, flat)) for kind in kinds]
    logit = net.op("Add", *parts) if len(parts) == 2 else parts[0]
    early, gate = net.maybe(), net.pick("Sigmoid", "HardSigmoid")
    mask = net.op(gate, logit) if early else logit
    mask = unflatten(net, mask, channels) if flat else mask
    mask = mask if early else net.op(gate, mask)
    if net.maybe():
        mask = net.op("Expand", mask, net.op("Shape", x))
    return net.either_way("Mul", x, mask)


def spatial_gate(net: Net, x: str) -> str:
    """CBAM's spatial attention, the maximum first or second, the convolution with BatchNormalization or not."""
    planes = []
    for kind in net.pick(("ReduceMax", "ReduceMean"), ("ReduceMean", "ReduceMax")):
        if net.maybe():
            planes.append(net.over(kind, x, net.pick((1,), (-3,)), keepdims=1))
        else:
            planes.append(net.over("Unsqueeze", net.over(kind, x, (1,), keepdims=0), (1,), since=13))
    size = net.pick(3, 7)
    both, weight = net.op("Concat", *planes, axis=1), net.weight(1, 2, size, size)
    mask = net.op("Conv", both, weight, *([net.weight(1)] if net.maybe() else []), pads=[size // 2] * 4)
    if net.maybe():
        statistics = [net.weight(1), net.weight(1), net.weight(1), net.weight(1, positive=True)]
        mask = net.op("BatchNormalization", mask, *statistics, epsilon=1e-3)
    return net.either_way("Mul", x, net.op("Sigmoid", mask))


def eca_gate(net: Net, x: str, channels: int) -> str:
    """ECA: a 1-D convolution along the pooled channels."""
    pooled = pool(net, x, channels, "mean", flat=True)
    row = net.over("Unsqueeze", pooled, (1,), since=13)
    slid = net.op("Conv", row, net.weight(1, 1, 3), pads=[1, 1])
    column = net.op("Transpose", net.op("Sigmoid", slid), perm=[0, 2, 1])
    return net.either_way("Mul", x, net.over("Unsqueeze", column, (-1,), since=13))


@st.composite
def gated(draw) -> Drawn:
    """One to three gates in a row on a feature map; inner values may be read elsewhere or leave the graph."""
    net, channels = Net(draw), draw(st.sampled_from((4, 8)))
    net.inputs["x"] = (FLOAT, ["batch", channels, *draw(st.sampled_from((["h", "w"], [5, 4])))])
    value, shared = "x", {}
    for kind in draw(st.lists(st.sampled_from(("channel", "spatial", "eca", "conv")), min_size=1, max_size=3)):
        if kind == "channel":
            value = channel_gate(net, value, channels, shared)
        elif kind == "conv":
            value = net.op("Relu", net.op("Conv", value, net.weight(channels, channels, 1, 1)))
        else:
            value = spatial_gate(net, value) if kind == "spatial" else eca_gate(net, value, channels)
    return finished(net, value)


@st.composite
def aligned(draw) -> Drawn:
    """A Luong or Bahdanau alignment, its mask and its context vector."""
    net, width = Net(draw), 4
    net.inputs |= {"q": (FLOAT, ["batch", width]), "memory": (FLOAT, ["batch", "s", width])}
    net.inputs["mask"] = (BOOL, ["batch", "s"])
    score = {"dot": _dot, "general": _general, "additive": _additive}[net.pick("dot", "general", "additive")]
    logits = score(net, width)
    low = net.constant(np.array(net.pick(-1e9, -np.inf, LOWEST), np.float32))
    weights = net.op("Softmax", net.op("Where", "mask", logits, low), axis=net.pick(-1, 1))
    row = net.over("Unsqueeze", weights, (1,), since=13)
    return finished(net, net.over("Squeeze", net.op("MatMul", row, "memory"), (1,), since=13))


def _dot(net: Net, width: int, query: str = "q") -> str:
    if net.maybe():
        column = net.over("Unsqueeze", query, (2,), since=13)
        return net.over("Squeeze", net.op("MatMul", "memory", column), (2,), since=13)
    row, turned = net.over("Unsqueeze", query, (1,), since=13), net.op("Transpose", "memory", perm=[0, 2, 1])
    return net.over("Squeeze", net.op("MatMul", row, turned), (1,), since=13)


def _general(net: Net, width: int) -> str:
    return _dot(net, width, net.op("MatMul", "q", net.weight(width, width)))


def _additive(net: Net, width: int) -> str:
    query = net.over("Unsqueeze", net.op("MatMul", "q", net.weight(width, width)), (1,), since=13)
    keys = net.op("MatMul", "memory", net.weight(width, width))
    hidden = net.op("Tanh", net.either_way("Add", query, keys))
    return net.over("Squeeze", net.op("MatMul", hidden, net.weight(width, 1)), (2,), since=13)


def finished(net: Net, value: str) -> Drawn:
    """The graph with its result, and up to two inner values that are read elsewhere too."""
    floats = [n.output[0] for n in net.nodes if n.op_type not in ("Constant", "Shape", "Identity")]
    for inner in net.draw(st.lists(st.sampled_from(floats), max_size=2, unique=True)) if net.maybe() else ():
        net.outputs.append(net.op("Neg", inner) if net.maybe() else inner)
    net.outputs.append(value if value not in net.outputs else net.op("Identity", value))
    return Drawn(net.model())


def program_of(model: onnx.ModelProto) -> Program:
    """With seeded inputs at two sizes; of every masked row the first place is valid."""
    stored = {t.name for t in model.graph.initializer}
    cases = []
    for sizes in SIZES:
        rng, feeds = np.random.default_rng(0), {}
        for value in model.graph.input:
            tensor = value.type.tensor_type
            shape = [sizes[d.dim_param] if d.dim_param else d.dim_value for d in tensor.shape.dim]
            if value.name not in stored:
                drawn = rng.standard_normal(shape).astype(np.float32)
                valid = (drawn > 0) | (np.arange(shape[-1]) == 0 if shape else True)
                feeds[value.name] = np.asarray(valid) if tensor.elem_type == BOOL else drawn
        cases.append(Case(f"batch-{sizes['batch']}", feeds))
    return Program({"main": model}, reference=Reference("source graph", tuple(cases)))
