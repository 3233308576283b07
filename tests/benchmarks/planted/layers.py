"""Layers of networks in their forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T

from tests.benchmarks.planted._model import Graphs, Spec, X, Y, f32, i64, model, node


def pools() -> Graphs:
    """Windows of every size and number of axes, dilations, indices, norms."""
    for size in (2, 7, 14, 28, 56, 112, 224, 300, 316, 317, 384, 512):
        for op in ("MaxPool", "AveragePool"):
            yield (
                f"{op}/window-{size}",
                model([node(op, "x", kernel_shape=[size, size])], [("x", T.FLOAT, (1, 4, size, size))], [Y]),
            )
    for rank in (1, 2, 3, 4):
        for op in ("MaxPool", "AveragePool", "LpPool"):
            sizes = (1, 2, *[6] * rank)
            yield f"{op}/{rank}d", model([node(op, "x", kernel_shape=[2] * rank)], [("x", T.FLOAT, sizes)], [Y])
        for op in ("GlobalAveragePool", "GlobalMaxPool"):
            yield f"{op}/{rank}d", model([node(op, "x")], [("x", T.FLOAT, (1, 2, *[6] * rank))], [Y])
    for op in ("MaxPool", "AveragePool", "LpPool"):
        yield f"{op}/dilations", model([node(op, "x", kernel_shape=[2, 2], dilations=[2, 2])], [X], [Y], opset=22)
        yield (
            f"{op}/ceil",
            model([node(op, "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], [X], [Y], opset=22),
        )
    yield "MaxPool/indices", model([node("MaxPool", "x", "y i", kernel_shape=[2, 2])], [X], [Y, ("i", T.INT64, None)])
    for p in (1, 2, 3):
        yield f"LpPool/p-{p}", model([node("LpPool", "x", kernel_shape=[2, 2], p=p)], [X], [Y])
        yield f"GlobalLpPool/p-{p}", model([node("GlobalLpPool", "x", p=p)], [X], [Y])


def layers() -> Graphs:
    """Convolutions and products in their forms."""
    for rank in (1, 2, 3):
        x: Spec = ("x", T.FLOAT, (1, 4, *[8] * rank))
        yield f"conv/{rank}d", model([node("Conv", "x w")], [x], [Y], {"w": f32(4, 4, *[3] * rank)})
        yield f"convtranspose/{rank}d", model([node("ConvTranspose", "x w")], [x], [Y], {"w": f32(4, 4, *[3] * rank)})
    x = ("x", T.FLOAT, (1, 4, 8, 8))
    yield "conv/depthwise", model([node("Conv", "x w", group=4)], [x], [Y], {"w": f32(4, 1, 3, 3)})
    yield "conv/weight-given", model([node("Conv", "x w")], [x, ("w", T.FLOAT, (4, 4, 3, 3))], [Y])
    yield "conv/dilated", model([node("Conv", "x w", dilations=[2, 2])], [x], [Y], {"w": f32(4, 4, 3, 3)})
    yield "conv/asymmetric-pads", model([node("Conv", "x w", pads=[0, 1, 2, 0])], [x], [Y], {"w": f32(4, 4, 3, 3)})
    yield "conv/same-upper", model([node("Conv", "x w", auto_pad="SAME_UPPER")], [x], [Y], {"w": f32(4, 4, 3, 3)})
    yield (
        "convtranspose/output-padding",
        model([node("ConvTranspose", "x w", strides=[2, 2], output_padding=[1, 1])], [x], [Y], {"w": f32(4, 4, 3, 3)}),
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
            model([node("MatMul", "x b")], [("x", T.FLOAT, a), ("b", T.FLOAT, b)], [Y]),
        )
    yield (
        "gemm/plain",
        model([node("Gemm", "x w b", transB=1)], [("x", T.FLOAT, (2, 8))], [Y], {"w": f32(4, 8), "b": f32(4)}),
    )
    yield (
        "gemm/scaled",
        model(
            [node("Gemm", "x w b", alpha=0.5, beta=2.0, transA=1)],
            [("x", T.FLOAT, (8, 2))],
            [Y],
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
        yield f"einsum/{equation}", model([node("Einsum", " ".join(sizes), equation=equation)], given, [Y])


def norms() -> Graphs:
    """Normalisations: with and without what is optional, trained and in training."""
    norm = {"s": f32(8), "b": f32(8)}
    yield "layernorm/one", model([node("LayerNormalization", "x s b")], [X], [Y], norm)
    yield "layernorm/mean", model([node("LayerNormalization", "x s b", "y m")], [X], [Y, ("m", T.FLOAT, None)], norm)
    yield "layernorm/no-bias", model([node("LayerNormalization", "x s")], [X], [Y], {"s": f32(8)})
    yield "layernorm/axis-1", model([node("LayerNormalization", "x s", axis=1)], [X], [Y], {"s": f32(3, 8, 8)})
    yield "layernorm/scale-given", model([node("LayerNormalization", "x s")], [X, ("s", T.FLOAT, (8,))], [Y])
    stats = {k: np.abs(f32(3)) + 1 for k in ("s", "b", "m", "v")}
    yield "batchnorm/eval", model([node("BatchNormalization", "x s b m v")], [X], [Y], stats)
    yield (
        "batchnorm/training",
        model(
            [node("BatchNormalization", "x s b m v", "y rm rv", training_mode=1)],
            [X],
            [Y, ("rm", T.FLOAT, None), ("rv", T.FLOAT, None)],
            stats,
        ),
    )
    yield "instancenorm", model([node("InstanceNormalization", "x s b")], [X], [Y], {"s": f32(3), "b": f32(3)})
    yield (
        "groupnorm/18",
        model(
            [node("GroupNormalization", "x s b", num_groups=2)],
            [("x", T.FLOAT, (1, 4, 8, 8))],
            [Y],
            {"s": f32(2), "b": f32(2)},
        ),
    )
    yield (
        "groupnorm/21",
        model(
            [node("GroupNormalization", "x s b", num_groups=2)],
            [("x", T.FLOAT, (1, 4, 8, 8))],
            [Y],
            {"s": f32(4), "b": f32(4)},
            21,
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
                    [X],
                    [Y],
                    {**scales, **more},
                    19,
                ),
            )
    yield "resize/scales-given", model([node("Resize", "x - s")], [X, ("s", T.FLOAT, (4,))], [Y])
    yield "resize/sizes-stored", model([node("Resize", "x - - s")], [X], [Y], {"s": i64(2, 3, 16, 16)})
    yield "resize/sizes-given", model([node("Resize", "x - - s")], [X, ("s", T.INT64, (4,))], [Y])
    yield (
        "resize/antialias",
        model(
            [node("Resize", "x - s", mode="linear", antialias=1)],
            [X],
            [Y],
            {"s": np.asarray([1, 1, 0.5, 0.5], np.float32)},
        ),
    )
    yield (
        "resize/axes",
        model([node("Resize", "x - s", axes=[2, 3])], [X], [Y], {"s": np.asarray([2, 2], np.float32)}),
    )
    yield (
        "resize/not-larger",
        model(
            [node("Resize", "x - - s", keep_aspect_ratio_policy="not_larger", axes=[2, 3])],
            [X],
            [Y],
            {"s": i64(7, 5)},
        ),
    )


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
