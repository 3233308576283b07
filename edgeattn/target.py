"""What a target's name means: ``openvino:cpu`` is an engine and one of its devices; and precisions' names."""

from __future__ import annotations

from typing import Literal, get_args

from edgeattn import registry
from edgeattn.errors import UnknownName, UsageError, did_you_mean, printable

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
"""What an engine can be asked to compute in."""


def require_precision(name: str, where: str = "--precision") -> None:
    """Refuse what is no precision.

    Raises:
        UnknownName: it is none of :data:`PRECISIONS`.
    """
    if name not in PRECISIONS:
        raise UnknownName("precision", name, PRECISIONS, where=where)


def parse(target: str) -> tuple[str, str]:
    """``openvino:cpu`` -> ``("openvino", "cpu")``; a bare name takes the engine's first device.

    Where one engine file serves several devices they are joined: ``tensorrt-rtx:sm89,sm120``, each named once.

    Raises:
        UnknownName: no such engine. UsageError: the engine has no such device, or takes one at a time.
    """
    stem, _, asked = target.partition(":")
    name = stem.replace("-", "_")
    if name not in registry.names("backends"):
        raise _unknown(target, name)
    backend = registry.get("backends", name)
    if hasattr(backend, "parse_device"):
        return name, str(backend.parse_device(asked, target))
    devices = list(dict.fromkeys(asked.split(","))) if asked else [backend.devices[0]]
    for device in devices:
        if device not in backend.devices:
            hint = did_you_mean(device, backend.devices)
            raise UsageError(f"'{stem}' has no device '{printable(device, 80)}'", where=printable(target), hint=hint)
    if len(devices) > 1 and not backend.joins:
        raise UsageError(f"'{stem}' takes one device", where=target, hint=f"like {stem}:{devices[0]}")
    return name, ",".join(devices)


_FORMER = ("myriad", "vpu", "hddl", "gna", "multi")


def _unknown(target: str, name: str) -> UsageError:
    """No such engine; where it is a device, or once was one, whose."""
    engines = {n.replace("_", "-"): registry.get("backends", n) for n in registry.names("backends")}
    device = name.lower().replace("_", "-")
    owners = [f"'{engine}:{device}'" for engine, backend in engines.items() if device in backend.devices]
    if owners:
        return UsageError(f"unknown target '{printable(target, 80)}'", hint=f"did you mean {' or '.join(owners)}?")
    if device in _FORMER:
        try:
            engines["openvino"].parse_device(device, target)
        except UsageError as told:
            return told
    return UnknownName("target", target, engines)
