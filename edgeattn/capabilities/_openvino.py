"""OpenVINO by device: operators measured on its CPU, what the NPU and GPU ask for from their pages.

Every device reads a graph through one ONNX frontend, which is what was asked; a plugin may still refuse an operator
that the frontend converts, which only the device can say.
"""

from __future__ import annotations

from edgeattn.capabilities import _measured
from edgeattn.capabilities._finding import Engine, Fact
from edgeattn.capabilities._openvino_names import SEVERAL, STATED, is_named, listed

DEVICES = ("cpu", "gpu", "gpu.1", "npu", "auto", "auto:gpu,cpu", "hetero:gpu,cpu")
"""Names to list; any that OpenVINO knows has a row."""
_PAGES = "https://docs.openvino.ai/2026/openvino-workflow/running-inference/inference-devices-and-modes"


def row(device: str) -> Engine:
    """The capabilities of a device, or of a list: what any of them would refuse.

    Args:
        device: in its one spelling, ``gpu.1`` or ``hetero:npu,cpu``.
    """
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
        static=Fact(is_named("npu", device), f"{_PAGES}/npu-device.html: static shapes only"),
        computes=Fact(
            {name: STATED[_kind(name)] for name in listed(device) if _kind(name) in STATED}, f"{_PAGES}.html"
        ),
        unknown=unknown(device),
        refused_versions=Fact(measured["refused_versions"], source),
        refused_types=Fact(measured["refused_types"], source),
        taken_types=Fact(measured["taken_types"], source),
    )


def unknown(device: str) -> tuple[str, ...]:
    """What no table tells of a device, a line each."""
    names, way = listed(device), device.partition(":")[0]
    told = []
    if here := [name.upper() for name in names if _kind(name) != "cpu"]:
        told.append(f"whether {_or(here)} takes every operator that OpenVINO's frontend reads: only the device says")
    if "cpu" in names:
        told.append("whether the CPU computes in bf16 or fp16: that depends on its instructions")
    if device == "auto":
        told.append("which device runs it: the first that the machine has of GPU and CPU; an NPU has to be named")
    elif way in SEVERAL:
        whole = "which device runs it: the first that the machine has" if way == "auto" else "which layer runs where"
        told.append(f"{whole}; `compile` says it there")
    if way == "hetero" and is_named("npu", device):
        told.append("whether HETERO takes an NPU at all: OpenVINO's table of supported features says no")
    return tuple(told)


def _kind(name: str) -> str:
    """``gpu.1`` -> ``gpu``."""
    return name.partition(".")[0]


def _or(names: list[str]) -> str:
    return " or ".join(names)
