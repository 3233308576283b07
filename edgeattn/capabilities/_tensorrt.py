"""TensorRT by version: what its ONNX parser gained, release by release.

From the parser's own documents: ``docs/operators.md`` (releases 8.5, 9.2 and 10.15) says which operators it takes,
``docs/Changelog.md`` when each was added. An operator that a document lists for the first time, and no changelog
dates, counts from that document on: an older release may have it, and nobody promised.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeattn.capabilities._finding import Engine, Fact, numbers

_OPERATORS = "onnx-tensorrt docs/operators.md"
_CHANGES = "onnx-tensorrt docs/Changelog.md"

VERSIONS = ("8.5", "8.6", *(f"10.{minor}" for minor in range(17)), *(f"11.{minor}" for minor in range(6)))

_IN_8_5 = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat
Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu
Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool
GlobalMaxPool Greater GreaterOrEqual GridSample GRU HardSwish HardSigmoid Identity If InstanceNormalization IsNaN
LeakyRelu Less LessOrEqual Log LogSoftmax Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean
MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad Pow PRelu QuantizeLinear
RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
ReverseSequence RNN RoiAlign Round Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh
Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK
Transpose Trilu Unsqueeze Upsample Where Xor
"""
_ADDED: tuple[tuple[str, str, str], ...] = (
    ("8.6", "GroupNormalization IsInf LayerNormalization", f"{_CHANGES}, 8.6 EA"),
    ("10.0", "CastLike Hardmax", f"{_OPERATORS}, 9.2"),
    ("10.1", "DeformConv", f"{_CHANGES}, 10.1"),
    ("10.4", "BlackmanWindow HammingWindow HannWindow", f"{_CHANGES}, 10.4"),
    ("10.5", "STFT", f"{_CHANGES}, 10.5"),
    ("10.14", "Attention", f"{_CHANGES}, 10.14"),
    ("10.15", "RotaryEmbedding RMSNormalization TensorScatter", f"{_CHANGES}, 10.15"),
    ("10.15", "Gelu Mish", f"{_OPERATORS}, 10.15, the first that lists them"),
    ("11.0", "Swish", "NVIDIA/TensorRT release notes, 11.0"),
    ("11.2", "DFT", "NVIDIA/TensorRT release notes, 11.2"),
)
# (from, newest opset, source)
_OPSETS: tuple[tuple[str, int, str], ...] = (
    ("8.5", 17, f"{_OPERATORS}, 8.5: up to opset 17"),
    ("8.6", 17, "NVIDIA Deep-Learning-Accelerator-SW operators/README.md: TensorRT 8.6, up to opset 17"),
    ("10.0", 20, f"{_OPERATORS}, 10.0 to 10.3: opset 9 to 20"),
    ("10.15", 24, f"{_OPERATORS}, 10.15: opset 9 to 24"),
    ("11.5", 25, "NVIDIA/TensorRT release notes, 11.5: opset 25"),
)
_REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
)
# operator -> (places, first release that lifted it, source)
_CONSTANTS: dict[str, tuple[tuple[int, ...], str]] = {
    **dict.fromkeys(_REDUCTIONS, ((1,), "")),
    "Squeeze": ((1,), "10.7"),
    "Unsqueeze": ((1,), "10.7"),
    "Slice": ((3,), "10.3"),
    "Pad": ((3,), "10.4"),
    "CumSum": ((1,), "10.8"),
    "TopK": ((1,), "8.6"),
    "OneHot": ((1,), ""),
    "Dropout": ((2,), ""),
    "STFT": ((1, 2), ""),
    "QuantizeLinear": ((2,), ""),
    "DequantizeLinear": ((2,), ""),
}
DIRECT = Fact(frozenset(_REDUCTIONS), "measured with tensorrt_rtx 1.4 and 1.5, whose parser is that of TensorRT 10")
WINDOW = Fact(100_000, "onnx-tensorrt issue 333 (MAX_KERNEL_DIMS_PRODUCT); measured with tensorrt_rtx 1.7.1: 316 x 316")
_FLOATS = frozenset({"float", "float16", "int32", "bool"})


def row(version: str) -> Engine:
    """The capabilities of a release; ``version`` is one of ``VERSIONS``."""
    at = numbers(version)
    return Engine(
        family="tensorrt",
        version=version,
        opsets=_opsets(at),
        operators=_operators(at),
        types=_types(at),
        carried=_carried(at),
        typing=_typing(at),
        constants=_constants(at),
        direct=DIRECT,
        quantized=_quantized(at),
        zero_points=Fact(False, f"{_OPERATORS}: zero points must be 0"),
        int64=Fact("native" if at >= (9, 0) else "clamped", f"{_CHANGES}, 9.0 EA: no longer casts INT64 to INT32"),
        window=WINDOW,
        unknown=(f"whether TensorRT {version} agrees: it could not be asked, its parser's documents were read",),
    )


def _operators(at: tuple[int, ...]) -> Fact[frozenset[str]]:
    known, source = set(_IN_8_5.split()), f"{_OPERATORS}, 8.5"
    for since, names, where in _ADDED:
        if at >= numbers(since):
            known, source = known | set(names.split()), where
    return Fact(frozenset(known), f"{_OPERATORS} and {_CHANGES} up to {'.'.join(map(str, at))} (newest: {source})")


def _opsets(at: tuple[int, ...]) -> Fact[tuple[int, int]]:
    newest, source = next((n, s) for since, n, s in reversed(_OPSETS) if at >= numbers(since))
    return Fact((7, newest), source)


def _types(at: tuple[int, ...]) -> Fact[frozenset[str]]:
    new = {"bfloat16", "int64"} if at >= (9, 0) else {"int64"}  # before 9.0, INT64 is computed in INT32
    return Fact(_FLOATS | new | {"double"}, f"{_OPERATORS}, {'9.2' if new > {'int64'} else '8.5'}, data types")


def _carried(at: tuple[int, ...]) -> Fact[frozenset[str]]:
    kinds = {"int8", "uint8"}
    kinds |= {"float8e4m3fn"} if at >= (9, 0) else set()
    kinds |= {"int4"} if at >= (10, 0) else set()
    kinds |= {"float4e2m1"} if at >= (10, 8) else set()
    return Fact(frozenset(kinds), f"{_OPERATORS}: quantized types, and UINT8 at inputs and outputs")


def _quantized(at: tuple[int, ...]) -> Fact[frozenset[str]]:
    return Fact(_carried(at).value - {"uint8"}, f"{_OPERATORS}, DequantizeLinear")


def _typing(at: tuple[int, ...]) -> Fact[str]:
    if at >= (11, 0):
        return Fact("strong", "TensorRT 10.x to 11.x migration guide: weak typing is removed in 11.0")
    if at >= (9, 0):
        return Fact("optional", "TensorRT headers: kSTRONGLY_TYPED from 9.0; weak typing deprecated in 10.12")
    return Fact("weak", "TensorRT 8.6 headers: no kSTRONGLY_TYPED")


def _constants(at: tuple[int, ...]) -> Fact[Mapping[str, tuple[int, ...]]]:
    held = {op: places for op, (places, lifted) in _CONSTANTS.items() if not lifted or at < numbers(lifted)}
    return Fact(held, f"{_OPERATORS}, restrictions; {_CHANGES}")
