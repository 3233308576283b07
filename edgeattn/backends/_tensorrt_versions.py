"""What differs between versions of TensorRT's builder; everything else is one code path.

Sources: NvInfer.h of each release; release notes 10.12 (weak typing deprecated) and 11.0 (removed); for TensorRT for
RTX its porting guide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeattn.errors import Unsupported


@dataclass(frozen=True)
class Version:
    """A row of the table.

    Attributes:
        since: the first version that it holds for.
        network: flags that a network is created with.
        precision: precision -> builder flags without which a typed graph would be built in FP32.
    """

    since: tuple[int, int]
    network: tuple[str, ...]
    precision: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


TABLE = (
    # Weakly typed: the types of the graph are an upper bound, and a flag allows each below FP32.
    Version((8, 5), ("EXPLICIT_BATCH",), {"fp16": ("FP16",), "int8": ("INT8", "FP16")}),
    # Strongly typed since 9.0; since 10.0 there is no other batch than the explicit one; 11 ignores the flag.
    Version((10, 0), ("STRONGLY_TYPED",)),
)
RTX = Version((1, 0), ("STRONGLY_TYPED",))

FLAGS = {
    "VERSION_COMPATIBLE": "8.6",
    "ERROR_ON_TIMING_CACHE_MISS": "9.0",
    "STRIP_PLAN": "10.0",
    "REFIT_IDENTICAL": "10.0",
    "EDITABLE_TIMING_CACHE": "10.9",
}
"""The release that brought a flag, for an error message; whether it is there is asked of the package."""


def of(version: str, dla: bool = False) -> Version:
    """The row for a version like ``10.3.0``; a DLA is weakly typed until 11.

    Raises:
        Unsupported: older than any row.
    """
    number = _number(version)
    rows = [row for row in TABLE if row.since <= number]
    if not rows:
        raise Unsupported(f"TensorRT {version} is too old", hint="8.5 is the oldest that is known here")
    if dla and number < (11, 0):
        return Version((8, 5), rows[-1].network if number < (10, 0) else (), {"fp16": ("FP16",)})
    return rows[-1]


def without_dla(version: str, precision: str) -> str:
    """Why a version does not build for a DLA; empty where it does.

    Sources: "Strongly Typed Networks for DLA" and "DLA Supported Layers" of TensorRT 11.3 and 11.4.1.
    """
    number = _number(version)
    if (10, 8) <= number < (11, 4):
        return f"TensorRT {version} supports no DLA; 10.7 was the last that did, and 11.4.1 does again"
    if precision == "int8" and number < (11, 0):
        return f"a DLA takes no Q/DQ before TensorRT 11, and {version} is here"
    return "" if precision in ("fp16", "int8") else f"a DLA computes in fp16 and int8, not in {precision}"


def _number(version: str) -> tuple[int, int]:
    major, minor = (int(part) for part in version.split(".")[:2])
    return major, minor


def flag(trt: Any, name: str, engine: str) -> Any:
    """A builder flag of the package that is here.

    Raises:
        Unsupported: it has none of that name; the hint says which release brought it.
    """
    found = getattr(trt.BuilderFlag, name, None)
    if found is None:
        since = FLAGS.get(name, "")
        hint = f"it came with TensorRT {since}" if since else "leave the setting out"
        raise Unsupported(f"{engine} {trt.__version__} has no flag {name}", hint=hint)
    return found
