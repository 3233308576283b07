"""What OpenVINO's device names mean, and which precisions a device computes in, as its vendor's pages say.

A target names one device (``cpu``, ``gpu``, ``gpu.1``, ``npu``) or several, most wanted first: ``auto:gpu,cpu`` runs
the whole graph on the first of them that is here, ``hetero:npu,cpu`` divides it, each layer on the first that takes it.
(docs.openvino.ai: inference devices and modes)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgeattn.errors import UsageError, did_you_mean, printable

SINGLE = ("cpu", "gpu", "npu")
SEVERAL = ("auto", "hetero")
CANDIDATES = ("gpu", "cpu")
"""What ``auto`` alone chooses from: an NPU only where it is named."""
STATED = {"gpu": ("fp32", "fp16", "int8"), "npu": ("fp16", "int8")}
"""What a device computes in; a CPU's extra ones depend on its instructions."""
JUDGED_FROM_DB = {"fp16": 40, "bf16": 30, "int8": 30}
"""What parity asks for in each precision (``edgeattn/harness/limits.py``): its signal over its noise."""

_VPU = "today's VPU is the NPU of a Core Ultra: take openvino:npu, or openvino:cpu meanwhile"
_STICK = "a Neural Compute Stick runs up to OpenVINO 2022.3 LTS"
_REMOVED = {
    "myriad": ("was removed in OpenVINO 2023.0", f"{_VPU}; {_STICK}"),
    "vpu": ("is MYRIAD, which was removed in OpenVINO 2023.0", f"{_VPU}; {_STICK}"),
    "hddl": ("was removed in OpenVINO 2023.0", _VPU),
    "gna": ("was removed in OpenVINO 2024.0", "take openvino:npu, or openvino:cpu meanwhile"),
    "multi": ("is no device of its own any more", "take openvino:auto:gpu,cpu"),
}


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
    if rest and kind not in _REMOVED:
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


def listed(device: str) -> tuple[str, ...]:
    """The single devices that a device stands for; of ``auto`` alone, what it chooses from."""
    kind, _, rest = device.partition(":")
    return tuple(rest.split(",")) if rest else CANDIDATES if kind in SEVERAL else (device,)


def is_named(kind: str, device: str) -> bool:
    """Whether a device is, or lists, one of this kind."""
    return kind in re.split("[:,.]", device)


def replaced(name: str, precision: str, computes: Sequence[str]) -> tuple[str, str] | None:
    """Why a device would not compute in a precision, and what to ask for; None where it does, or nothing is known.

    The limits of parity are those of the precision that is asked for: no device is asked for what it would replace.

    Args:
        name: a single device. computes: the precisions that it has.
    """
    if not computes or precision in computes:
        return None
    what = "this CPU" if name == "cpu" else f"the {name.upper()}"
    others = [p for p in computes if p != "bf16"]
    why = f"{what} does not compute in {precision}; OpenVINO would fall back to {others[0]}"
    told = [f"{p} (parity from {JUDGED_FROM_DB[p]} dB)" if p in JUDGED_FROM_DB else p for p in others]
    return why, f"ask for precision {' or '.join(told)}"
