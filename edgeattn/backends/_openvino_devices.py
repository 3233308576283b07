"""What OpenVINO's device names mean, which devices are here, and what is missing for those that are not.

A target names one device (``cpu``, ``gpu``, ``gpu.1``, ``npu``) or several, most wanted first: ``auto:gpu,cpu`` runs
the whole graph on the first of them that is here, ``hetero:npu,cpu`` divides it, each layer on the first that takes it.
(docs.openvino.ai: inference devices and modes)
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeattn.backends import Availability
from edgeattn.backends._common import first_line, probe_package
from edgeattn.backends._openvino_models import core
from edgeattn.errors import UsageError, did_you_mean, printable
from edgeattn.target import PRECISIONS

SINGLE = ("cpu", "gpu", "npu")
SEVERAL = ("auto", "hetero")

# What the vendor's pages say that a device computes in, for one that is not here to be asked.
_STATED = {"gpu": ("fp32", "fp16", "int8"), "npu": ("fp16", "int8")}

_VPU = "today's VPU is the NPU of a Core Ultra: take openvino:npu, or openvino:cpu meanwhile"
_STICK = "a Neural Compute Stick runs up to OpenVINO 2022.3 LTS"
_REMOVED = {
    "myriad": ("was removed in OpenVINO 2023.0", f"{_VPU}; {_STICK}"),
    "vpu": ("is MYRIAD, which was removed in OpenVINO 2023.0", f"{_VPU}; {_STICK}"),
    "hddl": ("was removed in OpenVINO 2023.0", _VPU),
    "gna": ("was removed in OpenVINO 2024.0", "take openvino:npu, or openvino:cpu meanwhile"),
    "multi": ("is no device of its own any more", "take openvino:auto:gpu,cpu"),
}


@dataclass(frozen=True)
class Device:
    """One device: whether it is here, and what it is called and computes in, or what is missing."""

    name: str
    here: bool
    title: str = ""
    computes: tuple[str, ...] = ()
    why: str = ""
    hint: str = ""


def parse(asked: str, where: str) -> str:
    """What follows the colon of a target, in its one spelling; empty means the CPU.

    Raises:
        UsageError: no such device, one that OpenVINO had once, or a list that names none.
    """
    kind, _, rest = asked.lower().partition(":")
    if kind in SEVERAL:
        devices = [_single(name.strip(), where) for name in rest.split(",")] if rest else []
        if kind == "hetero" and len(set(devices)) < 2:
            raise UsageError(
                "'hetero' divides a graph between devices", where=where, hint="name them: openvino:hetero:gpu,cpu"
            )
        return f"{kind}:{','.join(dict.fromkeys(devices))}" if devices else kind
    if "," in kind:
        raise UsageError("takes one device", where=where, hint=f"for several: openvino:hetero:{kind} or :auto:{kind}")
    if rest:
        raise UsageError(f"'{printable(kind, 40)}' takes no list", where=where, hint="auto and hetero do")
    return _single(kind, where) if kind else SINGLE[0]


def _single(name: str, where: str) -> str:
    kind = name.partition(".")[0]
    if kind in _REMOVED:
        what, hint = _REMOVED[kind]
        raise UsageError(f"'{kind}' {what}", where=where, hint=hint)
    if kind not in SINGLE or not re.fullmatch(r"[a-z]+(\.[0-9]+)?", name):
        known = did_you_mean(name, (*SINGLE, *SEVERAL))
        raise UsageError(f"'openvino' has no device '{printable(name, 80)}'", where=printable(where), hint=known)
    return name


def members(device: str) -> tuple[str, ...]:
    """The single devices that a device stands for; ``auto`` alone is what is here."""
    kind, _, rest = device.partition(":")
    if rest:
        return tuple(rest.split(","))
    return tuple(name for name in ("npu", "gpu", "cpu") if look(name).here) if kind in SEVERAL else (device,)


def is_named(kind: str, device: str) -> bool:
    """Whether a device is, or lists, one of this kind."""
    return kind in re.split("[:,.]", device)


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
    found = [look(name) for name in members(device)]
    if device.startswith("auto"):
        found = [d for d in found if d.here] or found
    return found[0].computes if found else ()


@functools.cache
def look(name: str) -> Device:
    """A device of this machine, by its single name. Never raises."""
    kind = name.partition(".")[0]
    stated = _STATED.get(kind, ())
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
