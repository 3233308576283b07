"""Quantized graphs, static and dynamic."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto as T
from onnx import helper

from tests.benchmarks.planted._model import Graphs, Spec, X, Y, f32, model, node


def quantizers() -> Graphs:
    """Types, zero points, axes and scales of a quantized convolution and product."""
    q, d = node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z")
    scale = np.float32(0.1)
    for kind in ("INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2"):
        for zero in (0, 1):
            stored = {"s": scale, "z": helper.make_tensor("z", T.DataType.Value(kind), [], [zero])}
            yield f"qdq/{kind.lower()}-zero-{zero}", model([q, d], [X], [Y], stored, 21)
    short = [node("QuantizeLinear", "x s", "q"), node("DequantizeLinear", "q s")]
    yield "qdq/no-zero-point", model(short, [X], [Y], {"s": scale}, 13)
    zero = {"z": np.int8(0)}
    given = ("s", T.FLOAT, ())
    yield "qdq/scale-given", model([q, d], [X, given], [Y], zero)
    yield "qdq/zero-given", model([q, d], [X, ("z", T.INT8, ())], [Y], {"s": scale})
    for name, value in (("zero", 0.0), ("negative", -0.1), ("nan", np.nan), ("inf", np.inf), ("tiny", 1e-30)):
        yield f"qdq/scale-{name}", model([q, d], [X], [Y], {"s": np.float32(value), **zero})
    channels = {"s": np.full(3, 0.1, np.float32), "z": np.zeros(3, np.int8)}
    per = [node("QuantizeLinear", "x s z", "q", axis=1), node("DequantizeLinear", "q s z", axis=1)]
    yield "qdq/activation-per-channel", model(per, [X], [Y], channels)
    yield (
        "qdq/only-quantize",
        model([node("QuantizeLinear", "x s z")], [X], [("y", T.INT8, None)], {"s": scale, **zero}),
    )
    yield (
        "qdq/only-dequantize",
        model([node("DequantizeLinear", "x s z")], [("x", T.INT8, (2, 3))], [Y], {"s": scale, **zero}),
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
        yield f"qdq-conv/axis-{axis}", model([*front, unpack, node("Conv", "d dw")], [X], [Y], stored)
    stored = {"s": scale, "z": zero, "w": weight, "ws": scale, "wz": zero}
    unpack = node("DequantizeLinear", "w ws wz", "dw")
    bias = {"b": np.zeros(16, np.int32), "bs": np.float32(0.0025)}
    for name, more in (("no-zero", {}), ("zero", {"bz": np.int32(0)})):
        unpacked = node("DequantizeLinear", f"b bs {' '.join(more)}", "db")
        yield (
            f"qdq-conv/bias-int32-{name}",
            model([*front, unpack, unpacked, node("Conv", "d dw db")], [X], [Y], stored | bias | more),
        )
    float_bias = stored | {"b": np.zeros(16, np.float32)}
    yield "qdq-conv/bias-float", model([*front, unpack, node("Conv", "d dw b")], [X], [Y], float_bias)
    float_weight = {"s": scale, "z": zero, "w": f32(16, 3, 3, 3), "ws": scale, "wz": zero}
    packed = [node("QuantizeLinear", "w ws wz", "pw"), node("DequantizeLinear", "pw ws wz", "dw")]
    yield "qdq-conv/weight-float", model([*front, *packed, node("Conv", "d dw")], [X], [Y], float_weight)
    unsigned = stored | {"w": np.abs(weight).astype(np.uint8), "wz": np.uint8(0)}
    yield "qdq-conv/weight-uint8", model([*front, unpack, node("Conv", "d dw")], [X], [Y], unsigned)
    product = {"s": scale, "z": zero, "w": weight.reshape(27, 16), "ws": scale, "wz": zero}
    unpack = node("DequantizeLinear", "w ws wz", "dw")
    yield "qdq-matmul", model([*front, unpack, node("MatMul", "d dw")], [("x", T.FLOAT, (4, 27))], [Y], product)
    table = {"e": np.random.default_rng(0).integers(-127, 127, (50, 8)).astype(np.int8), "s": scale, "z": zero}
    rows = [node("Gather", "e i", "g"), node("DequantizeLinear", "g s z")]
    yield "qdq/gather-int8", model(rows, [("i", T.INT64, (4,))], [Y], table)


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
    yield "dynamic/matmul", model(whole, [("x", T.FLOAT, (2, 4))], [Y], {"w": w})
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
