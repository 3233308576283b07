"""bf16: a strongly typed graph that computes in BF16 and stays in FP32 where eight bits are too few.

What: weights are stored in BF16, half the bytes; layers and what lies between them compute in BF16; a Cast stands
wherever the type changes, and no more of them than that needs. Graph inputs and outputs stay float32.
Why: BF16 has FP32's range, so nothing overflows, and CPUs with AVX-512 BF16 or AMX multiply it at twice FP32's rate.
How: decided by operator, and by constants that BF16 would change: whole numbers beyond 256. Graphs of opset 18 and
newer are raised to 22, the first in which convolutions, pools and recurrent layers have the type.
Stays float: sums over many elements (reductions, average pools, normalizations, Softmax): 256 + 1 is 256 in BF16;
sines (a position times a frequency is a large angle); comparisons, what an older opset has no BF16 of, anything under
``--keep``.
Where it runs: OpenVINO on CPUs that compute BF16 (elsewhere refused) computes exactly what the graph says: measured,
its convolutions run in BF16 and its sums in FP32. TensorRT on GPUs from Ampere on, if its version reads opset 22. ONNX
Runtime's CPU engine has no BF16 and is refused.
Source: Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training", section 3; ONNX opset 22.
"""

from __future__ import annotations

from edgeattn.quantize._typed import Typed
from edgeattn.quantize._typing import Kind
from edgeattn.rounding import BFLOAT16

_SUMS = "adds up many elements, and BF16 has eight bits"
_ANGLES = "turns by an angle, of which BF16 holds too few digits beyond one turn"

_KIND = Kind(
    name="bf16",
    label="BF16",
    element=BFLOAT16,
    largest=3.38e38,
    digits=2.0**-7,
    whole=256,
    operators={
        **dict.fromkeys(("Sin", "Cos", "Tan"), _ANGLES),
        **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), _SUMS),
        **dict.fromkeys(("RMSNormalization", "LpNormalization", "MeanVarianceNormalization"), _SUMS),
        **dict.fromkeys(("Softmax", "LogSoftmax", "Attention", "CumSum"), _SUMS),
        **dict.fromkeys(("GlobalAveragePool", "AveragePool", "GlobalLpPool", "LpPool"), _SUMS),
        **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"), _SUMS),
        **dict.fromkeys(("ReduceLogSum", "ReduceLogSumExp", "ReduceProd"), _SUMS),
    },
    ranged=False,
    opset=22,
)

SCHEME = Typed(_KIND)
