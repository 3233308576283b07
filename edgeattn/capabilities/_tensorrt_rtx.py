"""TensorRT for RTX by version: what its parser and builder said when they were asked, on a machine without a GPU.

``measured/tensorrt_rtx.json`` holds, for each release on PyPI, the operators of which at least one of ONNX's own node
tests was built for SM89; ``python -m tests.benchmarks.doctor_measure`` writes it again.
"""

from __future__ import annotations

from edgeattn.capabilities import _measured, _tensorrt
from edgeattn.capabilities._finding import Engine, Fact

VERSIONS = ("1.3", "1.4", "1.5", "1.6", "1.7")
CAPABILITIES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
_MATRIX = "TensorRT for RTX support matrix, precisions by compute capability; measured with tensorrt_rtx 1.7.1"
_MISSING = {
    "sm75": frozenset({"bfloat16", "float8e4m3fn", "float4e2m1", "int4", "float product"}),
    "sm80": frozenset({"float8e4m3fn", "float4e2m1"}),
    "sm86": frozenset({"float8e4m3fn", "float4e2m1"}),
    "sm89": frozenset({"float4e2m1"}),
    "sm120": frozenset[str](),
    "sm121": frozenset[str](),
}


def row(version: str) -> Engine:
    """The capabilities of a release; 1.3 is no longer on PyPI and reads as 1.4, the oldest that could be asked."""
    asked = "1.4" if version == "1.3" else version
    measured = _measured.table("tensorrt_rtx")["versions"][asked]
    source = f"measured with tensorrt_rtx {measured['package']} on a machine without a GPU"
    near = _tensorrt.row("10.15")
    places = {**near.constants.value} | {
        "CumSum": (1,),
        "Squeeze": (1,),
        "Unsqueeze": (1,),
        "Upsample": (1,),
    }
    return Engine(
        family="tensorrt-rtx",
        version=version,
        opsets=Fact((1, measured["newest_opset"]), source),
        operators=Fact(frozenset(measured["operators"]), source),
        types=Fact(near.types.value, source),
        carried=Fact(near.carried.value, source),
        typing=Fact("strong", "TensorRT for RTX: networks are always strongly typed"),
        constants=Fact(places, source),
        direct=_tensorrt.DIRECT if version in ("1.3", "1.4", "1.5") else Fact(frozenset(), source),
        folded=Fact(frozenset({"CumSum", "Squeeze", "Unsqueeze"}), source),
        quantized=Fact(near.quantized.value, source),
        zero_points=Fact(False, source),
        window=_tensorrt.WINDOW,
        unknown=("whether 1.3 agrees: it is on PyPI no more, and 1.4 was asked",) if version == "1.3" else (),
        missing=Fact(_MISSING, _MATRIX),
        refused_versions=Fact(measured["refused_versions"], source),
        refused_types=Fact(measured["refused_types"], source),
        taken_types=Fact(measured["taken_types"], source),
    )
