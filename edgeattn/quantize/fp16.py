"""fp16: a strongly typed graph that computes in FP16 and stays in FP32 where numbers would overflow or vanish.

What: weights are stored in FP16, half the bytes; layers and what lies between them compute in FP16; a Cast stands
wherever the type changes, and no more of them than that needs. Graph inputs and outputs stay float32.
Why: TensorRT 10 and later take precision from the graph alone, and its tensor cores are made for FP16. An engine told
to "use FP16" decides by itself what overflows; here it is measured and written down.
How: every value is measured on the model's reference cases. What reaches beyond half of FP16's 65504, or lies so low
that rounding loses a thousandth of it, stays in FP32 with its nodes, as do constants such as a mask's -1e9.
Stays float: LayerNormalization and its kin (a square overflows from 256 on), Softmax, sums that the measurements say
are too large, sines (a position times a frequency is a large angle), comparisons, anything under ``--keep``. A
recurrent layer (LSTM, GRU) computes in FP16 as a whole; its inner states are not measured.
Where it runs: TensorRT, GPUs, and CPUs with FP16 arithmetic. ONNX Runtime's CPU engine would compute it in FP32 and is
refused; on such a machine the file is judged with every operator's result rounded to FP16.
Source: IEEE 754-2019 binary16; Micikevicius et al. 2018, "Mixed Precision Training", section 3.
"""

from __future__ import annotations

from edgeattn.quantize._typed import Typed
from edgeattn.quantize._typing import Kind
from edgeattn.rounding import FLOAT16

_SQUARES = "adds up squares, which overflow FP16 from 256 on"
_EXPONENTIALS = "adds up exponentials"
_ANGLES = "turns by an angle, of which FP16 holds too few digits beyond one turn"

_KIND = Kind(
    name="fp16",
    label="FP16",
    element=FLOAT16,
    largest=65504.0,
    digits=2.0**-10,
    whole=2048,
    operators={
        **dict.fromkeys(("Sin", "Cos", "Tan"), _ANGLES),
        **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), _SQUARES),
        **dict.fromkeys(("RMSNormalization", "LpNormalization", "MeanVarianceNormalization"), _SQUARES),
        **dict.fromkeys(("Softmax", "LogSoftmax", "ReduceLogSumExp", "Attention"), _EXPONENTIALS),
    },
    ranged=True,
)

SCHEME = Typed(_KIND)
