"""Small graphs, each with one trait that an engine may refuse: what the table of capabilities is tried on.

``planted()`` gives them by name, ``reduce-mean/axes-given`` and so on; each group is a function of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

Graphs = Iterator[tuple[str, onnx.ModelProto]]
Spec = tuple[str, int, Sequence[int | str] | None]


def planted() -> dict[str, onnx.ModelProto]:
    """Every graph by its name."""
    found: dict[str, onnx.ModelProto] = {}
    for group in GROUPS:
        for name, model in group():
            assert name not in found, name
            found[name] = model
    return found


def with_values(made: onnx.ModelProto, **values: Any) -> onnx.ModelProto:
    """The model with values of inputs noted that an engine takes for shapes when it builds."""
    for name, value in values.items():
        told = made.metadata_props.add()
        told.key, told.value = name, json.dumps(np.asarray(value).reshape(-1).tolist())
    return made


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    stored: dict[str, Any] | None = None,
    opset: int = 18,
    ir: int = 10,
    domains: Sequence[str] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model of one graph; ``stored`` are initializers, arrays or TensorProtos."""
    tensors = [
        v if isinstance(v, onnx.TensorProto) else numpy_helper.from_array(np.asarray(v), n)
        for n, v in (stored or {}).items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "main",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        tensors,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions))
    try:
        inferred = onnx.shape_inference.infer_shapes(made).graph
    except onnx.shape_inference.InferenceError:  # the trait that is planted may be just that
        return made
    for ours, theirs in zip(made.graph.output, inferred.output, strict=True):
        ours.CopyFrom(theirs)
    return made


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    """A node; inputs and outputs separated by blanks, ``-`` for one that is not given."""
    names = [[] if not text else ["" if n == "-" else n for n in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *names, name=f"{op}_{names[1][0]}", **attributes)


def i64(*values: int) -> np.ndarray[Any, Any]:
    """A vector of indices."""
    return np.asarray(values, np.int64)


def f32(*shape: int) -> np.ndarray[Any, Any]:
    """Weights."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


_X: Spec = ("x", T.FLOAT, (2, 3, 8, 8))
_Y: Spec = ("y", T.FLOAT, None)


def opsets() -> Graphs:
    """A convolution and what follows it, in every opset."""
    for opset in (*range(7, 29), 40):
        nodes = [node("Conv", "x w", "c"), node("Relu", "c")]
        yield f"opset/{opset}", model(nodes, [_X], [_Y], {"w": f32(4, 3, 3, 3)}, opset, min(max(opset - 8, 4), 13))


_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


def reductions() -> Graphs:
    """Axes stored, given, computed from constants, from a shape; none at all."""
    for kind in _REDUCTIONS:
        op, axes = f"Reduce{kind}", ("axes", T.INT64, (2,))
        yield f"{op}/stored", model([node(op, "x axes")], [_X], [_Y], {"axes": i64(2, 3)})
        yield f"{op}/given", model([node(op, "x axes")], [_X, axes], [_Y])
        yield f"{op}/none", model([node(op, "x")], [_X], [_Y])
        yield f"{op}/attribute", model([node(op, "x", axes=[1])], [_X], [_Y], opset=12)
    for op in ("ReduceMean", "ReduceMax"):
        kept = node(op, "x axes")
        parts = {"a": i64(2), "b": i64(3)}
        yield f"{op}/constant-node", model([_constant("axes", i64(1)), kept], [_X], [_Y])
        yield f"{op}/identity", model([node("Identity", "a", "axes"), kept], [_X], [_Y], {"a": i64(2)})
        yield f"{op}/concat", model([node("Concat", "a b", "axes", axis=0), kept], [_X], [_Y], parts)
        cast = node("Cast", "a", "axes", to=T.INT64)
        yield f"{op}/cast", model([cast, kept], [_X], [_Y], {"a": np.asarray([2], np.int32)})
        ranks = [node("Shape", "x", "s"), node("Shape", "s", "r"), node("Sub", "r one", "axes"), kept]
        yield f"{op}/from-rank", model(ranks, [_X], [_Y], {"one": i64(1)})
        yield f"{op}/noop", model([node(op, "x", noop_with_empty_axes=1)], [_X], [_Y])
        yield f"{op}/negative", model([node(op, "x axes", keepdims=0)], [_X], [_Y], {"axes": i64(-1)})


def _constant(name: str, value: np.ndarray[Any, Any]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def quantizers() -> Graphs:
    """Types, zero points, axes and scales of a quantized convolution and product."""
    q, d = node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z")
    scale = np.float32(0.1)
    for kind in ("INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2"):
        for zero in (0, 1):
            stored = {"s": scale, "z": helper.make_tensor("z", T.DataType.Value(kind), [], [zero])}
            yield f"qdq/{kind.lower()}-zero-{zero}", model([q, d], [_X], [_Y], stored, 21)
    short = [node("QuantizeLinear", "x s", "q"), node("DequantizeLinear", "q s")]
    yield "qdq/no-zero-point", model(short, [_X], [_Y], {"s": scale}, 13)
    zero = {"z": np.int8(0)}
    given = ("s", T.FLOAT, ())
    yield "qdq/scale-given", model([q, d], [_X, given], [_Y], zero)
    yield "qdq/zero-given", model([q, d], [_X, ("z", T.INT8, ())], [_Y], {"s": scale})
    for name, value in (("zero", 0.0), ("negative", -0.1), ("nan", np.nan), ("inf", np.inf), ("tiny", 1e-30)):
        yield f"qdq/scale-{name}", model([q, d], [_X], [_Y], {"s": np.float32(value), **zero})
    channels = {"s": np.full(3, 0.1, np.float32), "z": np.zeros(3, np.int8)}
    per = [node("QuantizeLinear", "x s z", "q", axis=1), node("DequantizeLinear", "q s z", axis=1)]
    yield "qdq/activation-per-channel", model(per, [_X], [_Y], channels)
    yield (
        "qdq/only-quantize",
        model([node("QuantizeLinear", "x s z")], [_X], [("y", T.INT8, None)], {"s": scale, **zero}),
    )
    yield (
        "qdq/only-dequantize",
        model([node("DequantizeLinear", "x s z")], [("x", T.INT8, (2, 3))], [_Y], {"s": scale, **zero}),
    )
    half = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z")]
    stored = {"s": np.float16(0.1), **zero}
    yield "qdq/float16", model(half, [("x", T.FLOAT16, (2, 3))], [("y", T.FLOAT16, None)], stored, 19)
    yield (
        "qdq/float16-scale-float",
        model(half, [("x", T.FLOAT16, (2, 3))], [("y", T.FLOAT, None)], {"s": scale, **zero}, 21),
    )
    yield from _quantized_layers()


def _quantized_layers() -> Graphs:
    scale, zero = np.float32(0.05), np.int8(0)
    weight = np.random.default_rng(0).integers(-127, 127, (16, 3, 3, 3)).astype(np.int8)
    front = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d")]
    for axis, count in ((None, ()), (0, (16,)), (1, (3,))):
        ws, wz = np.full(count, 0.02, np.float32), np.zeros(count, np.int8)
        unpack = node("DequantizeLinear", "w ws wz", "dw", **({} if axis is None else {"axis": axis}))
        stored = {"s": scale, "z": zero, "w": weight, "ws": ws, "wz": wz}
        yield f"qdq-conv/axis-{axis}", model([*front, unpack, node("Conv", "d dw")], [_X], [_Y], stored)
    stored = {"s": scale, "z": zero, "w": weight, "ws": scale, "wz": zero}
    unpack = node("DequantizeLinear", "w ws wz", "dw")
    bias = {"b": np.zeros(16, np.int32), "bs": np.float32(0.0025)}
    for name, more in (("no-zero", {}), ("zero", {"bz": np.int32(0)})):
        unpacked = node("DequantizeLinear", f"b bs {' '.join(more)}", "db")
        yield (
            f"qdq-conv/bias-int32-{name}",
            model([*front, unpack, unpacked, node("Conv", "d dw db")], [_X], [_Y], stored | bias | more),
        )
    float_bias = stored | {"b": np.zeros(16, np.float32)}
    yield "qdq-conv/bias-float", model([*front, unpack, node("Conv", "d dw b")], [_X], [_Y], float_bias)
    float_weight = {"s": scale, "z": zero, "w": f32(16, 3, 3, 3), "ws": scale, "wz": zero}
    packed = [node("QuantizeLinear", "w ws wz", "pw"), node("DequantizeLinear", "pw ws wz", "dw")]
    yield "qdq-conv/weight-float", model([*front, *packed, node("Conv", "d dw")], [_X], [_Y], float_weight)
    unsigned = stored | {"w": np.abs(weight).astype(np.uint8), "wz": np.uint8(0)}
    yield "qdq-conv/weight-uint8", model([*front, unpack, node("Conv", "d dw")], [_X], [_Y], unsigned)
    product = {"s": scale, "z": zero, "w": weight.reshape(27, 16), "ws": scale, "wz": zero}
    unpack = node("DequantizeLinear", "w ws wz", "dw")
    yield "qdq-matmul", model([*front, unpack, node("MatMul", "d dw")], [("x", T.FLOAT, (4, 27))], [_Y], product)
    table = {"e": np.random.default_rng(0).integers(-127, 127, (50, 8)).astype(np.int8), "s": scale, "z": zero}
    rows = [node("Gather", "e i", "g"), node("DequantizeLinear", "g s z")]
    yield "qdq/gather-int8", model(rows, [("i", T.INT64, (4,))], [_Y], table)


def dynamic_quantization() -> Graphs:
    """Operators of dynamic quantization and of ONNX Runtime's quantizer."""
    u8: Spec = ("x", T.UINT8, (2, 4))
    w = np.ones((4, 5), np.uint8)
    s, z = np.float32(0.1), np.uint8(0)
    outs = [("y", T.UINT8, None), ("ys", T.FLOAT, None), ("yz", T.UINT8, None)]
    yield "dynamic/quantize", model([node("DynamicQuantizeLinear", "x", "y ys yz")], [("x", T.FLOAT, (2, 4))], outs)
    whole = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("MatMulInteger", "q w z", "i"),
        node("Cast", "i", "f", to=T.FLOAT),
        node("Mul", "f s"),
    ]
    yield "dynamic/matmul", model(whole, [("x", T.FLOAT, (2, 4))], [_Y], {"w": w})
    yield "dynamic/matmulinteger", model([node("MatMulInteger", "x w")], [u8], [("y", T.INT32, None)], {"w": w})
    conv = {"w": np.ones((2, 3, 3, 3), np.uint8)}
    yield (
        "dynamic/convinteger",
        model([node("ConvInteger", "x w")], [("x", T.UINT8, (2, 3, 8, 8))], [("y", T.INT32, None)], conv),
    )
    scales = {"xs": s, "xz": z, "ws": s, "wz": z, "ys": s, "yz": z}
    yield (
        "dynamic/qlinearmatmul",
        model([node("QLinearMatMul", "x xs xz w ws wz ys yz")], [u8], [("y", T.UINT8, None)], {"w": w, **scales}),
    )
    yield (
        "dynamic/qlinearconv",
        model(
            [node("QLinearConv", "x xs xz w ws wz ys yz")],
            [("x", T.UINT8, (2, 3, 8, 8))],
            [("y", T.UINT8, None)],
            conv | scales,
        ),
    )


def loops() -> Graphs:
    """Loops with every kind of trip count, state and stacked output; Scan; If."""
    for trip in ("stored", "given", "none"):
        for scan in (False, True):
            for grows in (False, True):
                if not (grows and scan):
                    yield f"loop/trip-{trip}{'-scan' * scan}{'-grows' * grows}", _loop(trip, scan, grows)
    yield "loop/slice-by-step", _stepwise("Slice", "x nought up", ["up"])
    yield "loop/gather-by-step", _stepwise("Gather", "x i", [])
    for ranks in ("equal", "different"):
        for condition in ("given", "stored"):
            yield f"if/ranks-{ranks}-{condition}", _branches(ranks, condition)
    yield "scan/sum", _scan()


def _loop(trip: str, scan: bool, grows: bool) -> onnx.ModelProto:
    step = node("Concat", "h h", "h2", axis=0) if grows else node("Add", "h one", "h2")
    nodes = [step, helper.make_node("Identity", ["c"], ["c2"])]
    outs = [
        helper.make_tensor_value_info("c2", T.BOOL, ()),
        helper.make_tensor_value_info("h2", T.FLOAT, None if grows else (2,)),
    ]
    if scan:
        nodes.append(helper.make_node("Mul", ["h2", "h2"], ["stacked"]))
        outs.append(helper.make_tensor_value_info("stacked", T.FLOAT, (2,)))
    ins = [
        helper.make_tensor_value_info("i", T.INT64, ()),
        helper.make_tensor_value_info("c", T.BOOL, ()),
        helper.make_tensor_value_info("h", T.FLOAT, None if grows else (2,)),
    ]
    body = helper.make_graph(nodes, "body", ins, outs)
    loop = node("Loop", f"{'-' if trip == 'none' else 'n'} go x", "y all" if scan else "y", body=body)
    given: list[Spec] = [("x", T.FLOAT, (2,))] + ([("n", T.INT64, ())] if trip == "given" else [])
    given += [("go", T.BOOL, ())] if trip == "none" else []
    stored: dict[str, Any] = {"one": np.ones(2, np.float32)}
    stored |= {"n": np.int64(4)} if trip == "stored" else {}
    stored |= {} if trip == "none" else {"go": np.bool_(True)}
    return model([loop], given, [_Y, *([("all", T.FLOAT, None)] if scan else [])], stored)


def _stepwise(op: str, inputs: str, ends: Sequence[str]) -> onnx.ModelProto:
    """A Loop that reads a part of ``x`` which the step chooses, and adds it up."""
    nodes = [node("Add", "i unit", "next"), node("Reshape", "next minus", "up")] if ends else []
    nodes += [node(op, inputs, "part"), node("ReduceSum", "part none", "sum", keepdims=0), node("Add", "h sum", "h2")]
    nodes += [node("Identity", "c", "c2")]
    ins = [("i", T.INT64, ()), ("c", T.BOOL, ()), ("h", T.FLOAT, ())]
    outs = [("c2", T.BOOL, ()), ("h2", T.FLOAT, ())]
    infos = [[helper.make_tensor_value_info(*spec) for spec in specs] for specs in (ins, outs)]
    body = helper.make_graph(nodes, "body", *infos)
    stored = {"unit": np.int64(1), "minus": i64(-1), "nought": i64(0), "none": i64(0), "n": np.int64(4)}
    stored |= {"go": np.bool_(True), "zero": np.float32(0)}
    used = {name for n in nodes for name in n.input} | {"n", "go", "zero"}
    stored = {k: v for k, v in stored.items() if k in used}
    if not ends:
        nodes[1].input[:] = ["part"]
        body = helper.make_graph(nodes, "body", *infos)
        stored.pop("none", None)
    return model([node("Loop", "n go zero", body=body)], [("x", T.FLOAT, (5,))], [_Y], stored)


def _branches(ranks: str, condition: str) -> onnx.ModelProto:
    yes = helper.make_graph([node("Relu", "x", "a")], "yes", [], [helper.make_tensor_value_info("a", T.FLOAT, (2, 3))])
    op = node("Neg", "x", "b") if ranks == "equal" else node("ReduceSum", "x ax", "b", keepdims=0)
    shape = (2, 3) if ranks == "equal" else (2,)
    no = helper.make_graph([op], "no", [], [helper.make_tensor_value_info("b", T.FLOAT, shape)])
    given: list[Spec] = [("x", T.FLOAT, (2, 3))] + ([("c", T.BOOL, ())] if condition == "given" else [])
    stored: dict[str, Any] = {"ax": i64(1)} | ({"c": np.bool_(True)} if condition == "stored" else {})
    return model([node("If", "c", then_branch=yes, else_branch=no)], given, [_Y], stored)


def _scan() -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, T.FLOAT, (3,)) for n in ("h", "v", "h2", "o")]
    nodes = [helper.make_node("Add", ["h", "v"], ["h2"]), helper.make_node("Identity", ["h2"], ["o"])]
    body = helper.make_graph(nodes, "body", values[:2], values[2:])
    given: list[Spec] = [("h0", T.FLOAT, (3,)), ("x", T.FLOAT, (5, 3))]
    return model([node("Scan", "h0 x", "last y", num_scan_inputs=1, body=body)], given, [("last", T.FLOAT, None), _Y])


def pools() -> Graphs:
    """Windows of every size and number of axes, dilations, indices, norms."""
    for size in (2, 7, 14, 28, 56, 112, 224, 300, 316, 317, 384, 512):
        for op in ("MaxPool", "AveragePool"):
            yield (
                f"{op}/window-{size}",
                model([node(op, "x", kernel_shape=[size, size])], [("x", T.FLOAT, (1, 4, size, size))], [_Y]),
            )
    for rank in (1, 2, 3, 4):
        for op in ("MaxPool", "AveragePool", "LpPool"):
            sizes = (1, 2, *[6] * rank)
            yield f"{op}/{rank}d", model([node(op, "x", kernel_shape=[2] * rank)], [("x", T.FLOAT, sizes)], [_Y])
        for op in ("GlobalAveragePool", "GlobalMaxPool"):
            yield f"{op}/{rank}d", model([node(op, "x")], [("x", T.FLOAT, (1, 2, *[6] * rank))], [_Y])
    for op in ("MaxPool", "AveragePool", "LpPool"):
        yield f"{op}/dilations", model([node(op, "x", kernel_shape=[2, 2], dilations=[2, 2])], [_X], [_Y], opset=22)
        yield (
            f"{op}/ceil",
            model([node(op, "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], [_X], [_Y], opset=22),
        )
    yield "MaxPool/indices", model([node("MaxPool", "x", "y i", kernel_shape=[2, 2])], [_X], [_Y, ("i", T.INT64, None)])
    for p in (1, 2, 3):
        yield f"LpPool/p-{p}", model([node("LpPool", "x", kernel_shape=[2, 2], p=p)], [_X], [_Y])
        yield f"GlobalLpPool/p-{p}", model([node("GlobalLpPool", "x", p=p)], [_X], [_Y])


_UNARY = ("Abs", "Neg", "Sign", "Relu", "Sigmoid", "Exp", "Sqrt", "Identity", "Softmax", "Erf", "Floor", "IsNaN", "Not")
_BINARY = ("Add", "Mul", "Div", "Max", "Min", "Pow", "Equal", "Less", "Greater", "MatMul", "And", "Where", "Concat")
_KINDS = (
    "FLOAT",
    "FLOAT16",
    "BFLOAT16",
    "DOUBLE",
    "INT8",
    "UINT8",
    "INT16",
    "UINT16",
    "INT32",
    "UINT32",
    "INT64",
    "UINT64",
    "BOOL",
)


def types() -> Graphs:
    """Operators of arithmetic and of moving, in every type that their definition has."""
    for op in (
        *_UNARY,
        *_BINARY,
        "Reshape",
        "Transpose",
        "Gather",
        "Slice",
        "Expand",
        "ReduceMax",
        "ReduceSum",
        "ArgMax",
        "Clip",
        "CumSum",
        "TopK",
    ):
        for kind in _KINDS:
            made = _typed(op, kind)
            if made is not None:
                yield f"type/{op}-{kind.lower()}", made


def _typed(op: str, kind: str) -> onnx.ModelProto | None:
    number = T.DataType.Value(kind)
    schema = onnx.defs.get_schema(op, 18, "")
    allowed = next(
        (
            set(c.allowed_type_strs)
            for c in schema.type_constraints
            if c.type_param_str == schema.inputs[1 if op == "Where" else 0].type_str
        ),
        set(),
    )
    if f"tensor({kind.lower()})" not in allowed:
        return None
    result = T.BOOL if op in ("Equal", "Less", "Greater", "IsNaN") else T.INT64 if op == "ArgMax" else number
    x, b = ("x", number, (4, 4)), ("b", number, (4, 4))
    extra = {
        "Reshape": ("x p", {"p": i64(2, 8)}),
        "Gather": ("x p", {"p": i64(1, 2)}),
        "Slice": ("x p q", {"p": i64(0, 1), "q": i64(2, 3)}),
        "Expand": ("x p", {"p": i64(2, 4, 4)}),
        "ReduceMax": ("x p", {"p": i64(1)}),
        "ReduceSum": ("x p", {"p": i64(1)}),
        "CumSum": ("x p", {"p": np.int64(1)}),
        "TopK": ("x p", {"p": i64(2)}),
    }
    if op in extra:
        inputs, stored = extra[op]
        out = "y k" if op == "TopK" else "y"
        more = [("k", T.INT64, None)] if op == "TopK" else []
        return model([node(op, inputs, out)], [x], [("y", number, None), *more], stored)
    if op == "Where":
        return model([node(op, "c x b")], [("c", T.BOOL, (4, 4)), x, b], [("y", number, None)])
    if op == "Concat":
        return model([node(op, "x b", axis=0)], [x, b], [("y", number, None)])
    both = op in _BINARY
    return model([node(op, "x b" if both else "x")], [x, b] if both else [x], [("y", result, None)])


def wide_numbers() -> Graphs:
    """DOUBLE and INT64 weights, small and too large for 32 bits."""
    for name, value in (("small", 2.5), ("large", 1e300)):
        stored = {"w": np.full(3, value, np.float64)}
        yield (
            f"double/weight-{name}",
            model([node("Mul", "x w")], [("x", T.DOUBLE, (2, 3))], [("y", T.DOUBLE, None)], stored),
        )
    for name, value in (("small", 7), ("large", 2**40)):
        stored = {"w": i64(value, value)}
        yield (
            f"int64/weight-{name}",
            model([node("Add", "x w")], [("x", T.INT64, (3, 2))], [("y", T.INT64, None)], stored),
        )


def shapes() -> Graphs:
    """Unknown ranks, dynamic and empty dimensions, scalars."""
    relu = [node("Relu", "x")]
    for name, shape in (
        ("no-rank", None),
        ("all", ("a", "b", "c")),
        ("batch", ("batch", 3)),
        ("empty", (0, 3)),
        ("scalar", ()),
    ):
        yield f"shape/{name}", model(relu, [("x", T.FLOAT, shape)], [_Y])
    weights = {"w": f32(4, 3, 3, 3)}
    yield "shape/conv-dynamic", model([node("Conv", "x w")], [("x", T.FLOAT, ("n", 3, "h", "w_"))], [_Y], weights)
    yield "shape/conv-channels-dynamic", model([node("Conv", "x w")], [("x", T.FLOAT, (1, "c", 8, 8))], [_Y], weights)
    yield "shape/conv-no-rank", model([node("Conv", "x w")], [("x", T.FLOAT, None)], [_Y], weights)
    flat = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n ax", "n1"),
        node("Concat", "n1 rest", "t", axis=0),
        node("Reshape", "x t"),
    ]
    stored = {"zero": np.int64(0), "ax": i64(0), "rest": i64(-1)}
    yield "shape/reshape-from-shape", model(flat, [("x", T.FLOAT, ("n", 3, 4))], [_Y], stored)
    given = model([node("Reshape", "x p")], [("x", T.FLOAT, (2, 6)), ("p", T.INT64, (2,))], [_Y])
    yield "shape/reshape-given", with_values(given, p=[3, 4])
    yield "shape/nonzero", model([node("NonZero", "x")], [("x", T.FLOAT, (4, 4))], [("y", T.INT64, None)])
    yield "shape/passed-through", model([node("Identity", "x")], [("x", T.FLOAT, (2,))], [_Y])
    yield "shape/stored-only", model([node("Add", "a b")], [], [_Y], {"a": f32(2), "b": f32(2)})


def topk() -> Graphs:
    """K around the limit, given, and computed."""
    outs = [_Y, ("i", T.INT64, None)]
    for k in (1, 100, 3839, 3840, 3841, 5000):
        yield f"topk/{k}", model([node("TopK", "x k", "y i")], [("x", T.FLOAT, (1, 8000))], outs, {"k": i64(k)})
    yield "topk/given", model([node("TopK", "x k", "y i")], [("x", T.FLOAT, (1, 50)), ("k", T.INT64, (1,))], outs)
    whole = [node("Shape", "x", "s"), node("Slice", "s one two", "k"), node("TopK", "x k", "y i")]
    yield "topk/from-shape", model(whole, [("x", T.FLOAT, (1, 50))], outs, {"one": i64(1), "two": i64(2)})
    yield (
        "topk/smallest",
        model([node("TopK", "x k", "y i", largest=0)], [("x", T.FLOAT, (1, 50))], outs, {"k": i64(5)}),
    )
    yield "topk/attribute", model([node("TopK", "x", "y i", k=5)], [("x", T.FLOAT, (1, 50))], outs, opset=9)


def foreign() -> Graphs:
    """Vendor operators, other standard domains, functions that travel in the model."""
    yield (
        "domain/microsoft-gelu",
        model([node("Gelu", "x", domain="com.microsoft")], [_X], [_Y], domains=["com.microsoft"]),
    )
    yield (
        "domain/microsoft-attention",
        model(
            [node("Attention", "x w b", domain="com.microsoft", num_heads=2)],
            [("x", T.FLOAT, (1, 4, 8))],
            [_Y],
            {"w": f32(8, 24), "b": f32(24)},
            domains=["com.microsoft"],
        ),
    )
    yield "domain/nowhere", model([node("Relu", "x", domain="nowhere")], [_X], [_Y], domains=["nowhere"])
    yield (
        "domain/ml",
        model(
            [node("Scaler", "x", domain="ai.onnx.ml", offset=[0.0], scale=[1.0])],
            [("x", T.FLOAT, (2, 3))],
            [_Y],
            domains=["ai.onnx.ml"],
        ),
    )
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    yield (
        "domain/function",
        model([node("Twice", "x", domain="own")], [_X], [_Y], domains=["own"], functions=[function]),
    )
    yield "domain/no-such-operator", model([node("Superpose", "x")], [_X], [_Y])


def recurrent() -> Graphs:
    """LSTM, GRU and RNN in the forms that their definition allows."""
    for op in ("LSTM", "GRU", "RNN"):
        for direction in ("forward", "reverse", "bidirectional"):
            yield f"{op}/{direction}", _recurrent(op, direction=direction)
        yield f"{op}/bias", _recurrent(op, "x w r b")
        yield f"{op}/lengths", _recurrent(op, "x w r - l")
        yield f"{op}/layout-1", _recurrent(op, layout=1)
        yield f"{op}/clip", _recurrent(op, clip=1.0)
    yield "GRU/linear-before-reset", _recurrent("GRU", linear_before_reset=1)
    yield "LSTM/input-forget", _recurrent("LSTM", input_forget=1)
    mixed = ["Sigmoid", "Tanh", "Tanh", "Sigmoid", "Relu", "Tanh"]
    yield "LSTM/mixed-activations", _recurrent("LSTM", direction="bidirectional", activations=mixed)


def _recurrent(op: str, inputs: str = "x w r", **attributes: Any) -> onnx.ModelProto:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op] * 4
    n = 2 if attributes.get("direction") == "bidirectional" else 1
    stored = {"w": f32(n, gates, 3), "r": f32(n, gates, 4), "b": f32(n, 2 * gates)}
    given: list[Spec] = [("x", T.FLOAT, (2, 5, 3) if attributes.get("layout") else (5, 2, 3))]
    given += [("l", T.INT32, (2,))] if "l" in inputs.split() else []
    used = {k: v for k, v in stored.items() if k in inputs.split()}
    return model([node(op, inputs, hidden_size=4, **attributes)], given, [_Y], used)


def parameters() -> Graphs:
    """What operators take as inputs, stored, given, and computed from constants."""
    x: Spec = ("x", T.FLOAT, (2, 3, 4))
    # operator, inputs, {parameter: value}, which one is varied
    rows: list[tuple[str, str, dict[str, Any], str]] = [
        ("Squeeze", "x p", {"p": i64(0)}, "p"),
        ("Unsqueeze", "x p", {"p": i64(0)}, "p"),
        ("Slice", "x a b p", {"a": i64(0), "b": i64(1), "p": i64(1)}, "p"),
        ("Slice", "x p b", {"p": i64(0, 0, 0), "b": i64(1, 2, 3)}, "p"),
        ("Pad", "x p", {"p": i64(0, 0, 0, 0, 0, 1)}, "p"),
        ("Tile", "x p", {"p": i64(1, 1, 2)}, "p"),
        ("Expand", "x p", {"p": i64(2, 3, 4)}, "p"),
        ("Reshape", "x p", {"p": i64(2, 12)}, "p"),
        ("CumSum", "x p", {"p": np.int64(1)}, "p"),
        ("Split", "x p", {"p": i64(1, 2)}, "p"),
        ("Gather", "x p", {"p": i64(0, 1)}, "p"),
        ("Clip", "x p q", {"p": np.float32(0), "q": np.float32(6)}, "p"),
        ("Trilu", "x p", {"p": np.int64(1)}, "p"),
        ("Dropout", "x r p", {"r": np.float32(0.5), "p": np.bool_(False)}, "p"),
    ]
    for op, inputs, stored, varied in rows:
        first = ("x", T.FLOAT, (1, 3, 4)) if op == "Squeeze" else x
        op_node = node(
            op, inputs, "y z" if op == "Split" else "y", **({"axis": 1} if op in ("Split", "Gather") else {})
        )
        outs = [_Y, *([("z", T.FLOAT, None)] if op == "Split" else [])]
        label = f"{op}/{inputs.replace(' ', '')}"
        yield f"{label}-stored", model([op_node], [first], outs, stored)
        value = np.asarray(stored[varied])
        spec = (varied, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        given = model([op_node], [first, spec], outs, {k: v for k, v in stored.items() if k != varied})
        yield f"{label}-given", with_values(given, **{varied: value})
        folded = {**{k: v for k, v in stored.items() if k != varied}, "raw": value}
        yield f"{label}-identity", model([node("Identity", "raw", varied), op_node], [first], outs, folded)
        if value.dtype == np.int64:
            yield (
                f"{label}-computed",
                model(
                    [node("Add", "raw nought", varied), op_node],
                    [first],
                    outs,
                    {**folded, "nought": np.zeros_like(value)},
                ),
            )


def one_hots() -> Graphs:
    """OneHot and Range, stored and given."""
    values = np.asarray([0, 1], np.float32)
    x: Spec = ("x", T.INT64, (3,))
    for kind, depth in (("int64", np.int64(5)), ("float", np.float32(5)), ("int64-vector", i64(5))):
        yield f"onehot/depth-{kind}", model([node("OneHot", "x d v")], [x], [_Y], {"d": depth, "v": values})
    yield "onehot/depth-given", model([node("OneHot", "x d v")], [x, ("d", T.INT64, ())], [_Y], {"v": values})
    yield "onehot/values-given", model([node("OneHot", "x d v")], [x, ("v", T.FLOAT, (2,))], [_Y], {"d": np.int64(5)})
    for kind in (np.int64, np.int32, np.float32, np.float16):
        name, number = np.dtype(kind).name, helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        stored = {"a": kind(0), "b": kind(6), "c": kind(2)}
        yield f"range/{name}-stored", model([node("Range", "a b c")], [], [("y", number, None)], stored)
        yield (
            f"range/{name}-given",
            model(
                [node("Range", "a b c")],
                [("b", number, ())],
                [("y", number, None)],
                {k: v for k, v in stored.items() if k != "b"},
            ),
        )


def resizes() -> Graphs:
    """Modes, coordinates, scales and sizes."""
    scales = {"s": np.asarray([1, 1, 2, 2], np.float32)}
    ways = (
        "half_pixel",
        "pytorch_half_pixel",
        "asymmetric",
        "align_corners",
        "half_pixel_symmetric",
        "tf_crop_and_resize",
    )
    for mode in ("nearest", "linear", "cubic"):
        for way in ways:
            inputs, more = (
                ("x r s", {"r": np.asarray([0, 0, 0, 0, 1, 1, 1, 1], np.float32)})
                if way.startswith("tf")
                else ("x - s", {})
            )
            yield (
                f"resize/{mode}-{way}",
                model(
                    [node("Resize", inputs, mode=mode, coordinate_transformation_mode=way)],
                    [_X],
                    [_Y],
                    {**scales, **more},
                    19,
                ),
            )
    yield "resize/scales-given", model([node("Resize", "x - s")], [_X, ("s", T.FLOAT, (4,))], [_Y])
    yield "resize/sizes-stored", model([node("Resize", "x - - s")], [_X], [_Y], {"s": i64(2, 3, 16, 16)})
    yield "resize/sizes-given", model([node("Resize", "x - - s")], [_X, ("s", T.INT64, (4,))], [_Y])
    yield (
        "resize/antialias",
        model(
            [node("Resize", "x - s", mode="linear", antialias=1)],
            [_X],
            [_Y],
            {"s": np.asarray([1, 1, 0.5, 0.5], np.float32)},
        ),
    )
    yield (
        "resize/axes",
        model([node("Resize", "x - s", axes=[2, 3])], [_X], [_Y], {"s": np.asarray([2, 2], np.float32)}),
    )
    yield (
        "resize/not-larger",
        model(
            [node("Resize", "x - - s", keep_aspect_ratio_policy="not_larger", axes=[2, 3])],
            [_X],
            [_Y],
            {"s": i64(7, 5)},
        ),
    )


def layers() -> Graphs:
    """Convolutions, products and norms in their forms."""
    for rank in (1, 2, 3):
        x: Spec = ("x", T.FLOAT, (1, 4, *[8] * rank))
        yield f"conv/{rank}d", model([node("Conv", "x w")], [x], [_Y], {"w": f32(4, 4, *[3] * rank)})
        yield f"convtranspose/{rank}d", model([node("ConvTranspose", "x w")], [x], [_Y], {"w": f32(4, 4, *[3] * rank)})
    x = ("x", T.FLOAT, (1, 4, 8, 8))
    yield "conv/depthwise", model([node("Conv", "x w", group=4)], [x], [_Y], {"w": f32(4, 1, 3, 3)})
    yield "conv/weight-given", model([node("Conv", "x w")], [x, ("w", T.FLOAT, (4, 4, 3, 3))], [_Y])
    yield "conv/dilated", model([node("Conv", "x w", dilations=[2, 2])], [x], [_Y], {"w": f32(4, 4, 3, 3)})
    yield "conv/asymmetric-pads", model([node("Conv", "x w", pads=[0, 1, 2, 0])], [x], [_Y], {"w": f32(4, 4, 3, 3)})
    yield "conv/same-upper", model([node("Conv", "x w", auto_pad="SAME_UPPER")], [x], [_Y], {"w": f32(4, 4, 3, 3)})
    yield (
        "convtranspose/output-padding",
        model([node("ConvTranspose", "x w", strides=[2, 2], output_padding=[1, 1])], [x], [_Y], {"w": f32(4, 4, 3, 3)}),
    )
    for a, b in (
        ((2, 3), (3, 4)),
        ((3,), (3, 4)),
        ((2, 3), (3,)),
        ((3,), (3,)),
        ((3,), (2, 3, 4)),
        ((2, 3, 4), (4,)),
        ((5, 2, 3), (3, 4)),
        ((1, 5, 2, 3), (5, 3, 4)),
    ):
        yield (
            f"matmul/{'x'.join(map(str, a))}-{'x'.join(map(str, b))}",
            model([node("MatMul", "x b")], [("x", T.FLOAT, a), ("b", T.FLOAT, b)], [_Y]),
        )
    yield (
        "gemm/plain",
        model([node("Gemm", "x w b", transB=1)], [("x", T.FLOAT, (2, 8))], [_Y], {"w": f32(4, 8), "b": f32(4)}),
    )
    yield (
        "gemm/scaled",
        model(
            [node("Gemm", "x w b", alpha=0.5, beta=2.0, transA=1)],
            [("x", T.FLOAT, (8, 2))],
            [_Y],
            {"w": f32(8, 4), "b": f32(1, 4)},
        ),
    )
    for equation in (
        "ij,jk->ik",
        "bij,bjk->bik",
        "...ij,...jk->...ik",
        "ii->i",
        "ij->ji",
        "bhid,bhjd->bhij",
        "ij,kl->ijkl",
    ):
        first, *rest = equation.split("->")[0].split(",")
        sizes = {"x": first, **({"b": rest[0]} if rest else {})}
        given = [(n, T.FLOAT, [3] * len(s.replace("...", "q"))) for n, s in sizes.items()]
        yield f"einsum/{equation}", model([node("Einsum", " ".join(sizes), equation=equation)], given, [_Y])
    norm = {"s": f32(8), "b": f32(8)}
    yield "layernorm/one", model([node("LayerNormalization", "x s b")], [_X], [_Y], norm)
    yield "layernorm/mean", model([node("LayerNormalization", "x s b", "y m")], [_X], [_Y, ("m", T.FLOAT, None)], norm)
    yield "layernorm/no-bias", model([node("LayerNormalization", "x s")], [_X], [_Y], {"s": f32(8)})
    yield "layernorm/axis-1", model([node("LayerNormalization", "x s", axis=1)], [_X], [_Y], {"s": f32(3, 8, 8)})
    yield "layernorm/scale-given", model([node("LayerNormalization", "x s")], [_X, ("s", T.FLOAT, (8,))], [_Y])
    stats = {k: np.abs(f32(3)) + 1 for k in ("s", "b", "m", "v")}
    yield "batchnorm/eval", model([node("BatchNormalization", "x s b m v")], [_X], [_Y], stats)
    yield (
        "batchnorm/training",
        model(
            [node("BatchNormalization", "x s b m v", "y rm rv", training_mode=1)],
            [_X],
            [_Y, ("rm", T.FLOAT, None), ("rv", T.FLOAT, None)],
            stats,
        ),
    )
    yield "instancenorm", model([node("InstanceNormalization", "x s b")], [_X], [_Y], {"s": f32(3), "b": f32(3)})
    yield (
        "groupnorm/18",
        model(
            [node("GroupNormalization", "x s b", num_groups=2)],
            [("x", T.FLOAT, (1, 4, 8, 8))],
            [_Y],
            {"s": f32(2), "b": f32(2)},
        ),
    )
    yield (
        "groupnorm/21",
        model(
            [node("GroupNormalization", "x s b", num_groups=2)],
            [("x", T.FLOAT, (1, 4, 8, 8))],
            [_Y],
            {"s": f32(4), "b": f32(4)},
            21,
        ),
    )
    for reduction in ("none", "add", "mul", "max"):
        given = [("x", T.FLOAT, (4, 4)), ("u", T.FLOAT, (2, 4))]
        yield (
            f"scatternd/{reduction}",
            model([node("ScatterND", "x i u", reduction=reduction)], given, [_Y], {"i": np.asarray([[0], [2]])}),
        )
        yield (
            f"scatterelements/{reduction}",
            model(
                [node("ScatterElements", "x i u", axis=0, reduction=reduction)],
                given,
                [_Y],
                {"i": np.zeros((2, 4), np.int64)},
            ),
        )
    for fmod in (0, 1):
        for kind in ("FLOAT", "INT64", "INT32"):
            if fmod or kind != "FLOAT":
                number = T.DataType.Value(kind)
                yield (
                    f"mod/{kind.lower()}-fmod-{fmod}",
                    model(
                        [node("Mod", "x b", fmod=fmod)],
                        [("x", number, (4,)), ("b", number, (4,))],
                        [("y", number, None)],
                    ),
                )
    for approximate in ("none", "tanh"):
        yield f"gelu/{approximate}", model([node("Gelu", "x", approximate=approximate)], [_X], [_Y], opset=20)
    for op in (
        "HardSigmoid",
        "HardSwish",
        "Mish",
        "Softplus",
        "Selu",
        "Elu",
        "Celu",
        "ThresholdedRelu",
        "LogSoftmax",
        "Hardmax",
        "Softsign",
        "Shrink",
    ):
        yield f"activation/{op}", model([node(op, "x")], [_X], [_Y])
    yield "squeeze/no-axes", model([node("Squeeze", "x")], [("x", T.FLOAT, (1, 3, 1))], [_Y])
    for base, exponent in (("FLOAT", "INT64"), ("FLOAT", "INT32"), ("INT64", "INT64"), ("INT32", "FLOAT")):
        kinds = [T.DataType.Value(kind) for kind in (base, exponent)]
        given = [("x", kinds[0], (4,)), ("b", kinds[1], (4,))]
        yield f"pow/{base.lower()}-{exponent.lower()}", model([node("Pow", "x b")], given, [("y", kinds[0], None)])
    yield "prelu", model([node("PRelu", "x s")], [_X], [_Y], {"s": f32(3, 1, 1)})


def attentions() -> Graphs:
    """Attention at the sizes of heads that networks have."""
    for kind in ("FLOAT", "FLOAT16", "BFLOAT16"):
        for size in (4, 8, 16, 24, 32, 40, 48, 64, 72, 80, 96, 128, 160, 256, 512):
            yield f"attention/{kind.lower()}-{size}", _attention(kind, 4, 16, size)
        for heads, length in ((2, 4), (4, 17), (1, 1), (8, 64), (12, 128)):
            yield f"attention/{kind.lower()}-{heads}x{length}x64", _attention(kind, heads, length, 64)
    for size in (8, 32, 64, 128):
        yield f"attention/causal-{size}", _attention("FLOAT16", 4, 16, size, is_causal=1)
        yield f"attention/mask-{size}", _attention("FLOAT16", 4, 16, size, "q k v m")
        yield f"attention/mask-causal-{size}", _attention("FLOAT16", 4, 16, size, "q k v m", is_causal=1)


def _attention(
    kind: str, heads: int, length: int, size: int, inputs: str = "q k v", **attributes: Any
) -> onnx.ModelProto:
    number = T.DataType.Value(kind)
    given: list[Spec] = [(n, number, (1, heads, length, size)) for n in ("q", "k", "v")]
    given += [("m", number, (1, 1, length, length))] if "m" in inputs.split() else []
    return model([node("Attention", inputs, **attributes)], given, [("y", number, None)], opset=23, ir=11)


def names() -> Graphs:
    """Nodes that share a name, or have none."""
    for op in ("Relu", "Conv", "Add", "Identity"):
        inputs = {"Conv": "{} w", "Add": "{} w"}.get(op, "{}")
        both = [node(op, inputs.format("x"), "h"), node(op, inputs.format("h"), "y")]
        stored = {"Conv": {"w": f32(3, 3, 1, 1)}, "Add": {"w": f32(8)}}.get(op, {})
        for name in ("same", ""):
            for n in both:
                n.name = name
            yield f"names/{op}-{name or 'none'}", model(both, [_X], [_Y], stored)


GROUPS = (
    opsets,
    reductions,
    quantizers,
    dynamic_quantization,
    loops,
    pools,
    types,
    wide_numbers,
    shapes,
    topk,
    foreign,
    recurrent,
    parameters,
    one_hots,
    resizes,
    layers,
    attentions,
    names,
)
"""Every group of planted graphs."""
