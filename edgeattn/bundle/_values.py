"""What a manifest holds, as frozen values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgeattn.program import TensorSpec, Wiring


@dataclass(frozen=True)
class FileEntry:
    """Checksum (lower-case hex) and length of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class GraphEntry:
    """One compiled graph: the file the engine opens, the portable ONNX it came from, and its tensors."""

    file: str
    portable: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Tolerance:
    """``|got - expected| <= atol + rtol * |expected|``."""

    atol: float
    rtol: float


@dataclass(frozen=True)
class SelfTestEntry:
    """The packed sample. Array ``feed_<i>`` of ``file`` is input ``feeds[i]``, ``output_<i>`` is ``outputs[i]``.

    Attributes:
        forced: array ``tokens`` holds ``(batch, steps)`` tokens to force instead of decoding greedily.
    """

    file: str
    feeds: tuple[str, ...]
    outputs: tuple[str, ...]
    forced: bool
    tolerance: Mapping[str, Tolerance]


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says about itself.

    Attributes:
        target: what was asked for (``openvino:cpu``). device: what the engine reported.
        precision: ``{"requested": …, "effective": …}``.
        options: what ``backend.open`` needs: ``device``, ``precision``, ``threads``.
        engine: what the engine reported when it was built, per graph.
        files: every file but the manifest, by POSIX path inside the bundle.
    """

    schema_version: int
    edgeattn: str
    model: str
    task: str | None
    target: str
    backend: str
    device: str
    precision: Mapping[str, str]
    graphs: Mapping[str, GraphEntry]
    wiring: Wiring | None
    options: Mapping[str, Any]
    engine: Mapping[str, Any]
    created_with: Mapping[str, str]
    assets: Mapping[str, str]
    selftest: SelfTestEntry | None
    files: Mapping[str, FileEntry]

    def dumps(self) -> str:
        """The JSON text in its one form, with ``digest``: the sha256 of the text without it."""
        values = asdict(self)
        return _text({**values, "digest": hashlib.sha256(_text(values).encode()).hexdigest()})


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=True) + "\n"
