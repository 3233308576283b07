"""Targets as users name them: an engine and its version, a JetPack, a device."""

from __future__ import annotations

from edgeattn.capabilities import _onnxruntime, _openvino, _openvino_names, _tensorrt, _tensorrt_rtx
from edgeattn.capabilities._finding import Target, numbers
from edgeattn.errors import UnknownName, UsageError
from edgeattn.target import parse

# JetPack -> the TensorRT it ships; NVIDIA does not support upgrading one without the other before JetPack 6.
JETPACKS = {
    "jp5.1": "8.5",  # 8.5.2; NVIDIA/TensorRT issue 3454
    "jp6.0": "8.6",  # 8.6.2
    "jp6.1": "10.3",  # pytorch/TensorRT issue 3453
    "jp6.2": "10.3",
    "jp7.1": "10.13",  # roboflow/inference issue 1935
    "jp7.2": "10.16",  # roboflow/inference pull 2531; 11.4 from 7.2.2 on
    "jp7.2.2": "11.4",  # TensorRT 11.4.1 Jetson migration page
}
FAMILIES = ("tensorrt", "tensorrt-rtx", "jetson", "openvino", "onnxruntime")


def targets() -> dict[str, tuple[str, ...]]:
    """Every family with what may follow the colon."""
    return {
        "tensorrt": _tensorrt.VERSIONS,
        "tensorrt-rtx": (*_tensorrt_rtx.VERSIONS, *_tensorrt_rtx.CAPABILITIES),
        "jetson": tuple(JETPACKS),
        "openvino": _openvino.DEVICES,
        "onnxruntime": ("cpu",),
    }


def resolve(target: str) -> Target:
    """The row of the table that a target means.

    ``tensorrt`` alone is the newest version; ``tensorrt-rtx:1.6,sm89`` names a version and compute capabilities.

    Raises:
        UnknownName: no such family. UsageError: no such version, JetPack, device or compute capability.
    """
    family, _, rest = target.replace("_", "-").partition(":")
    known = targets()
    if family not in known:
        parse(target)  # says what was meant
        raise UnknownName("target", target, FAMILIES)
    parts = [part.strip() for part in rest.lower().split(",") if part.strip()]
    if family == "tensorrt":
        version = _one(target, parts, _tensorrt.VERSIONS, _tensorrt.VERSIONS[-1])
        return Target(target, _tensorrt.row(version))
    if family == "tensorrt-rtx":
        return _rtx(target, parts)
    if family == "jetson":
        return Target(target, _tensorrt.row(JETPACKS[_one(target, parts, tuple(JETPACKS), "jp6.2")]))
    if family == "openvino":
        return Target(target, _openvino.row(_openvino_names.parse(rest, target)))
    _one(target, parts, ("cpu",), "cpu")
    return Target(target, _onnxruntime.row())


def closest(family: str, version: str) -> str:
    """The newest version in the table that is not newer than this one; the newest of all where none is given."""
    known = [name for name in targets()[family] if numbers(name) and "." in name]
    older = [name for name in known if numbers(name) <= numbers(version)] if version else known
    return max(older or known[:1], key=numbers)


def _one(target: str, parts: list[str], known: tuple[str, ...], default: str) -> str:
    """The one thing after the colon; a patch level (``10.3.0``) is that of its minor version."""
    if not parts:
        return default
    (part, *more) = parts
    while not more and part not in known and part.count(".") > 1:
        part = part.rpartition(".")[0]
    if more or part not in known:
        raise UsageError(f"'{rest(target)}' is none of its versions or devices", where=target, hint=_known(known))
    return part


def rest(target: str) -> str:
    """What follows the colon."""
    return target.partition(":")[2]


def _rtx(target: str, parts: list[str]) -> Target:
    version, capabilities = _tensorrt_rtx.VERSIONS[-1], []
    for part in parts:
        if part in _tensorrt_rtx.CAPABILITIES:
            capabilities.append(part)
        else:
            known = (*_tensorrt_rtx.VERSIONS, *_tensorrt_rtx.CAPABILITIES)
            version = _one(f"{target.partition(':')[0]}:{part}", [part], known, version)
    return Target(target, _tensorrt_rtx.row(version), tuple(capabilities))


def _known(names: tuple[str, ...]) -> str:
    return f"known: {', '.join(names)}"
