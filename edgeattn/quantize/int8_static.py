"""int8-static: symmetric INT8 activations and per-channel weights, as QDQ pairs with scales from calibration.

What: every wide Conv, Gemm and MatMul reads and stores INT8; the sums and activations between them follow.
Why: one file that TensorRT, OpenVINO and ONNX Runtime all run in INT8. Attention gates stay in float
(policy ``gate=float``): a sigmoid gate that shares a scale with features keeps 7 of its levels. With ``gate=int8``
their products run in INT8 too, the gate by its own scale: 1/127, which a sigmoid's range says without data.
Scales: the range of |x| over real training samples / 127, zero point 0; on engines that multiply unsigned activations
range / 255 as UINT8 behind a ReLU, and where they ask for it UINT8 around 128 elsewhere (OpenVINO takes INT8 there;
TensorRT takes INT8 alone: quantize with the default dialect for it); weights max |w| per output channel / 127.
Ranges: ``minmax`` takes the largest magnitude; ``percentile`` (99.99), ``entropy`` and ``mse`` clip what is rare.
Stays float: gates, layers narrower than 16 channels, Softmax, LayerNorm, biases, anything under ``--keep``.
Gates: for engines that take computed scales (ONNX Runtime), SE and CBAM gates multiply the scales of quantized values
instead of unpacked maps; for one image of a known size, other gates are multiplied as they are. With ``gate=int8`` the
wide layers of such gates quantize what they read while they run. For OpenVINO gates read and compute less: the mean
before the pointwise convolution, a shared MLP's last layer once, the spatial convolution as a band matrix; and a
strided pointwise convolution reads a map that was thinned as far up as all its readers allow.
Source: ONNX QuantizeLinear-13; integer quantization after Jacob et al. 2018, section 2; entropy after Migacz 2017.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeattn.program import Case, Opener, Program
from edgeattn.quantize import Quantized, Scheme, Settings
from edgeattn.quantize._insert import insert, levels, refuse_nonfinite
from edgeattn.quantize._light import Light, lighten
from edgeattn.quantize._observe import calibrate
from edgeattn.quantize._plan import Plan, drop_unreached, plan
from edgeattn.quantize._shortcuts import hand_over
from edgeattn.recognise import recognise
from edgeattn.strides import thin

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class _Prepared:
    """A graph as it is quantized, its plan, and what was changed for the engine."""

    model: onnx.ModelProto
    plan: Plan
    lighter: tuple[str, ...]
    thinned: tuple[str, ...]
    shortcuts: tuple[str, ...]


def _prepared(model: onnx.ModelProto, settings: Settings) -> _Prepared:
    found = tuple(recognise(model))
    light = lighten(model, found) if settings.qdq.light_gates else Light(model, found, (), {})
    thinner, thinned = thin(light.model) if settings.qdq.strides_up else (light.model, ())
    copied = hand_over(thinner, light.found) if settings.qdq.shortcuts_handed_over else (thinner, ())
    return _Prepared(
        copied[0], plan(copied[0], settings, light.floats, light.found), light.gates, thinned, shortcuts=copied[1]
    )


class Int8Static(Scheme):
    """The scheme; see the module docstring."""

    name = "int8-static"
    precision = "int8"
    limits = "int8"
    calibrated = True

    def quantize(self, program: Program, opener: Opener, data: Iterable[Case], settings: Settings) -> Quantized:
        """Plan every graph, calibrate once, insert the pairs; see :func:`edgeattn.quantize.quantize`."""
        prepared = {graph: _prepared(model, settings) for graph, model in program.graphs.items()}
        program = replace(program, graphs={graph: made.model for graph, made in prepared.items()})
        plans = {graph: made.plan for graph, made in prepared.items()}
        for graph, model in program.graphs.items():
            refuse_nonfinite(model, plans[graph])
        found = calibrate(program, {g: levels(p) for g, p in plans.items()}, opener, data, settings.ranges)
        for graph, peaks in found.peaks.items():
            drop_unreached(plans[graph], peaks)
        graphs = {graph: insert(model, plans[graph], found.peaks[graph]) for graph, model in program.graphs.items()}
        notes = {
            "samples": found.samples,
            "calibration": found.notes,
            "activations": sum(len(p.activations) for p in plans.values()),
            "weights": sum(len(p.weights) for p in plans.values()),
            "kept_float": {name: why for p in plans.values() for name, why in p.kept.items()},
            "gates_made_lighter": [gate for made in prepared.values() for gate in made.lighter],
            "maps_thinned": [value for made in prepared.values() for value in made.thinned],
            "shortcuts_handed_over": [value for made in prepared.values() for value in made.shortcuts],
            "gates_as_scales": sum(len(p.carried) for p in plans.values()),
            "gates_not_as_scales": {gate: why for p in plans.values() for gate, why in p.not_carried.items()},
            "attention": [f"{a.kind}: {a.describe()}" for p in plans.values() for a in p.attention],
        }
        return replace(program, graphs=graphs), notes


SCHEME = Int8Static()
