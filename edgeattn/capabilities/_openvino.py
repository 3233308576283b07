"""OpenVINO by device: operators measured on its CPU, what the NPU and GPU ask for from their pages.

Every device reads a graph through one ONNX frontend, which is what was asked; a plugin may still refuse an operator
that the frontend converts, which only the device can say.
"""

from __future__ import annotations

from edgeattn.capabilities import _measured
from edgeattn.capabilities._finding import Engine, Fact

DEVICES = ("cpu", "gpu", "npu")
_PAGES = "https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes"


def row(device: str) -> Engine:
    """The capabilities of a device."""
    measured = _measured.table("openvino")
    source = f"measured with openvino {measured['package']} on a CPU"
    taken = frozenset(measured["types"])
    return Engine(
        family="openvino",
        version=measured["package"],
        device=device,
        opsets=Fact((1, measured["newest_opset"]), source),
        operators=Fact(frozenset(measured["operators"]), source),
        types=Fact(taken, source),
        carried=Fact(frozenset(), source),
        typing=Fact("optional", "OpenVINO: INFERENCE_PRECISION_HINT"),
        constants=Fact({"Dropout": (2,), "STFT": (1,), "Unsqueeze": (1,)}, source),
        folded=Fact(frozenset({"Unsqueeze"}), source),
        quantized=Fact(frozenset(), source),
        zero_points=Fact(True, source),
        static=Fact(device == "npu", f"{_PAGES}/npu-device.html: static shapes only"),
        refused_types=Fact(measured["refused_types"], source),
        taken_types=Fact(measured["taken_types"], source),
    )
