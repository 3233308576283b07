"""Which of OpenVINO's devices are here, what they compute in, and what is missing for those that are not.

What their names mean stands in ``edgeattn/capabilities/_openvino_names.py``, which asks no engine.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeattn.backends import Availability
from edgeattn.backends._common import first_line, probe_package
from edgeattn.backends._openvino_models import core
from edgeattn.capabilities._openvino_names import SEVERAL, STATED, listed
from edgeattn.target import PRECISIONS


@dataclass(frozen=True)
class Device:
    """One device: whether it is here, and what it is called and computes in, or what is missing."""

    name: str
    here: bool
    title: str = ""
    computes: tuple[str, ...] = ()
    why: str = ""
    hint: str = ""


def members(device: str) -> tuple[str, ...]:
    """The single devices that a device stands for; ``auto`` alone is what is here of what it chooses from."""
    return tuple(name for name in listed(device) if device not in SEVERAL or look(name).here)


def called(device: str) -> str:
    """The name to compile for, ``HETERO:NPU,CPU``; of ``auto``'s list only what is here, or it would not compile."""
    kind, _, rest = device.partition(":")
    if kind != "auto" or not rest:
        return device.upper()
    return f"AUTO:{','.join(name for name in members(device) if look(name).here)}".upper()


def absent(device: str) -> dict[str, str]:
    """Devices of a list that are not here, and why."""
    return {name: look(name).why for name in members(device) if not look(name).here}


def availability(device: str) -> Availability:
    """Whether a graph compiled for the device runs on this machine. Never raises."""
    package = probe_package("openvino", "openvino")
    if not package.available:
        return package
    found = [look(name) for name in members(device)]
    missing = [d for d in found if not d.here]
    if missing and (not device.startswith("auto") or len(missing) == len(found)):
        return Availability(False, package.version, why=missing[0].why, hint=missing[0].hint)
    return package


def computes(device: str) -> tuple[str, ...]:
    """What the device that is asked first computes in; with ``auto``, of those that are here."""
    return next((look(name).computes for name in asked_for(device, "")), ())


def asked_for(device: str, precision: str) -> tuple[str, ...]:
    """The devices that have to compute in a precision: the first; of a divided graph every one, in FP32 and BF16.

    What is asked for in FP16 or INT8 another device of ``hetero`` may compute in FP32, and says so.
    """
    names = members(device)
    if device.startswith("hetero") and precision in ("fp32", "bf16"):
        return names
    here = [name for name in names if look(name).here] if device.startswith("auto") else []
    return tuple(here or names)[:1]


@functools.cache
def look(name: str) -> Device:
    """A device of this machine, by its single name. Never raises."""
    kind = name.partition(".")[0]
    stated = STATED.get(kind, ())
    try:
        engine = core()
        present = _present(name, engine.available_devices)
        if present:
            told = engine.get_property(name.upper(), "OPTIMIZATION_CAPABILITIES")
            kinds = tuple(p for p in PRECISIONS if p.upper() in told)
            return Device(name, True, str(engine.get_property(name.upper(), "FULL_DEVICE_NAME")).strip(), kinds)
        why, hint = _missing(kind, _complaint(engine, kind))
    except Exception as error:
        why, hint = first_line(error), "edgeattn list targets says what is here"
    return Device(name, False, computes=stated, why=why, hint=hint)


@functools.cache
def takes(name: str, setting: str) -> bool:
    """Whether a device knows a setting; one that is not here is asked when it is."""
    return not look(name).here or setting in core().get_property(name.upper(), "SUPPORTED_PROPERTIES")


def _present(name: str, available: Sequence[str]) -> bool:
    """``GPU`` is here as ``GPU``, or as ``GPU.0`` where there are several."""
    wanted, known = name.upper(), set(available)
    return wanted in known or wanted.removesuffix(".0") in known or f"{wanted}.0" in known


def _complaint(engine: object, kind: str) -> str:
    """What OpenVINO says when a device that it does not list is asked about; empty where it answers."""
    try:
        engine.get_property(kind.upper(), "AVAILABLE_DEVICES")  # type: ignore[attr-defined]
    except Exception as error:
        return str(error)
    return ""


def _missing(kind: str, complaint: str) -> tuple[str, str]:
    """Why a device is not here, and what brings it."""
    if kind == "gpu" and "libOpenCL" in complaint:
        return (
            "no Intel GPU can be used: libOpenCL.so.1 is missing",
            "apt install intel-opencl-icd ocl-icd-libopencl1",
        )
    if kind == "gpu":
        hint = "install intel-opencl-icd (`clinfo` must list it), and join the group render"
        return "no Intel GPU that OpenVINO can use", hint
    if kind == "npu" and not list(Path("/dev/accel").glob("accel*") if Path("/dev/accel").is_dir() else []):
        hint = "it needs a Core Ultra, Linux 6.6 or newer, and the driver of github.com/intel/linux-npu-driver"
        return "no NPU: /dev/accel/accel0 is missing", hint
    if kind == "npu":
        return (
            "an NPU without its driver",
            "install the release of github.com/intel/linux-npu-driver, join the group render",
        )
    return f"no {kind.upper()} that OpenVINO can use", "edgeattn list targets says what is here"
