"""ONNX Runtime's CPU provider, as it answered when it was asked."""

from __future__ import annotations

from edgeattn.capabilities import _measured
from edgeattn.capabilities._finding import Engine, Fact


def row() -> Engine:
    """The capabilities of its CPU provider."""
    measured = _measured.table("onnxruntime")
    source = f"measured with onnxruntime {measured['package']}"
    return Engine(
        family="onnxruntime",
        version=measured["package"],
        opsets=Fact((1, measured["newest_opset"]), source),
        operators=Fact(frozenset(measured["operators"]), source),
        types=Fact(frozenset({*measured["types"], "sequence", "optional", "map"}), source),
        carried=Fact(frozenset(), source),
        typing=Fact("optional", "ONNX Runtime computes in the types of the graph"),
        constants=Fact({}, source),
        quantized=Fact(frozenset(), source),
        zero_points=Fact(True, source),
        ir=Fact(measured["newest_ir"], source),
        refused_types=Fact(measured["refused_types"], source),
        taken_types=Fact(measured["taken_types"], source),
    )
