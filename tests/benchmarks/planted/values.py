"""What operators are given: numbers, shapes, axes and types."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper

from tests.benchmarks.planted._model import Graphs, Spec, X, Y, constant, f32, i64, model, node, with_values

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")


def reductions() -> Graphs:
    """Axes stored, given, computed from constants, from a shape; none at all."""
    for kind in _REDUCTIONS:
        op, axes = f"Reduce{kind}", ("axes", T.INT64, (2,))
        yield f"{op}/stored", model([node(op, "x axes")], [X], [Y], {"axes": i64(2, 3)})
        yield f"{op}/given", model([node(op, "x axes")], [X, axes], [Y])
        yield f"{op}/none", model([node(op, "x")], [X], [Y])
        yield f"{op}/attribute", model([node(op, "x", axes=[1])], [X], [Y], opset=12)
    for op in ("ReduceMean", "ReduceMax"):
        kept = node(op, "x axes")
        parts = {"a": i64(2), "b": i64(3)}
        yield f"{op}/constant-node", model([constant("axes", i64(1)), kept], [X], [Y])
        yield f"{op}/identity", model([node("Identity", "a", "axes"), kept], [X], [Y], {"a": i64(2)})
        yield f"{op}/concat", model([node("Concat", "a b", "axes", axis=0), kept], [X], [Y], parts)
        cast = node("Cast", "a", "axes", to=T.INT64)
        yield f"{op}/cast", model([cast, kept], [X], [Y], {"a": np.asarray([2], np.int32)})
        ranks = [node("Shape", "x", "s"), node("Shape", "s", "r"), node("Sub", "r one", "axes"), kept]
        yield f"{op}/from-rank", model(ranks, [X], [Y], {"one": i64(1)})
        yield f"{op}/noop", model([node(op, "x", noop_with_empty_axes=1)], [X], [Y])
        yield f"{op}/negative", model([node(op, "x axes", keepdims=0)], [X], [Y], {"axes": i64(-1)})


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
        yield f"shape/{name}", model(relu, [("x", T.FLOAT, shape)], [Y])
    weights = {"w": f32(4, 3, 3, 3)}
    yield "shape/conv-dynamic", model([node("Conv", "x w")], [("x", T.FLOAT, ("n", 3, "h", "w_"))], [Y], weights)
    yield "shape/conv-channels-dynamic", model([node("Conv", "x w")], [("x", T.FLOAT, (1, "c", 8, 8))], [Y], weights)
    yield "shape/conv-no-rank", model([node("Conv", "x w")], [("x", T.FLOAT, None)], [Y], weights)
    flat = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n ax", "n1"),
        node("Concat", "n1 rest", "t", axis=0),
        node("Reshape", "x t"),
    ]
    stored = {"zero": np.int64(0), "ax": i64(0), "rest": i64(-1)}
    yield "shape/reshape-from-shape", model(flat, [("x", T.FLOAT, ("n", 3, 4))], [Y], stored)
    given = model([node("Reshape", "x p")], [("x", T.FLOAT, (2, 6)), ("p", T.INT64, (2,))], [Y])
    yield "shape/reshape-given", with_values(given, p=[3, 4])
    yield "shape/nonzero", model([node("NonZero", "x")], [("x", T.FLOAT, (4, 4))], [("y", T.INT64, None)])
    yield "shape/passed-through", model([node("Identity", "x")], [("x", T.FLOAT, (2,))], [Y])
    yield "shape/stored-only", model([node("Add", "a b")], [], [Y], {"a": f32(2), "b": f32(2)})


def topk() -> Graphs:
    """K around the limit, given, and computed."""
    outs = [Y, ("i", T.INT64, None)]
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
        outs = [Y, *([("z", T.FLOAT, None)] if op == "Split" else [])]
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
        yield f"onehot/depth-{kind}", model([node("OneHot", "x d v")], [x], [Y], {"d": depth, "v": values})
    yield "onehot/depth-given", model([node("OneHot", "x d v")], [x, ("d", T.INT64, ())], [Y], {"v": values})
    yield "onehot/values-given", model([node("OneHot", "x d v")], [x, ("v", T.FLOAT, (2,))], [Y], {"d": np.int64(5)})
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


def scatters() -> Graphs:
    """Scattered writes, with every reduction."""
    for reduction in ("none", "add", "mul", "max"):
        given = [("x", T.FLOAT, (4, 4)), ("u", T.FLOAT, (2, 4))]
        yield (
            f"scatternd/{reduction}",
            model([node("ScatterND", "x i u", reduction=reduction)], given, [Y], {"i": np.asarray([[0], [2]])}),
        )
        yield (
            f"scatterelements/{reduction}",
            model(
                [node("ScatterElements", "x i u", axis=0, reduction=reduction)],
                given,
                [Y],
                {"i": np.zeros((2, 4), np.int64)},
            ),
        )


def pointwise() -> Graphs:
    """Arithmetic and activations whose attributes or types matter."""
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
        yield f"gelu/{approximate}", model([node("Gelu", "x", approximate=approximate)], [X], [Y], opset=20)
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
        yield f"activation/{op}", model([node(op, "x")], [X], [Y])
    yield "squeeze/no-axes", model([node("Squeeze", "x")], [("x", T.FLOAT, (1, 3, 1))], [Y])
    for base, exponent in (("FLOAT", "INT64"), ("FLOAT", "INT32"), ("INT64", "INT64"), ("INT32", "FLOAT")):
        kinds = [T.DataType.Value(kind) for kind in (base, exponent)]
        given = [("x", kinds[0], (4,)), ("b", kinds[1], (4,))]
        yield f"pow/{base.lower()}-{exponent.lower()}", model([node("Pow", "x b")], given, [("y", kinds[0], None)])
    yield "prelu", model([node("PRelu", "x s")], [X], [Y], {"s": f32(3, 1, 1)})
