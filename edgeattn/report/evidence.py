"""Raw evidence kept beside the report: latency samples and attention maps, in one ``samples.npz``."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgeattn.errors import BadInput

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays

COLUMNS = ("reference_ms", "engine_ms", "control_ms")
MAX_EVIDENCE_BYTES = 256 << 20


@dataclass(frozen=True)
class RawSamples:
    """Milliseconds per call, one entry per round; the three columns were timed in the same rounds.

    Attributes:
        reference_ms, engine_ms: ``(rounds,)`` float64.
        control_ms: ``(rounds,)`` the engine a second time in the round (A/A control).
    """

    reference_ms: Array
    engine_ms: Array
    control_ms: Array


@dataclass(frozen=True)
class AttentionFigure:
    """One sample's attention as PyTorch and as the engine see it.

    Attributes:
        kind: ``spatial`` (a mask over an image) or ``alignment`` (target by source).
        title: one line, e.g. ``layer3, CBAM spatial mask``.
        reference, engine: ``spatial`` masks ``(h, w)``; ``alignment`` weights ``(T, S)``.
        image: ``(H, W)``, the input of a ``spatial`` figure.
        source, target: the ``S`` and ``T`` tokens of an ``alignment`` figure.
    """

    kind: Literal["spatial", "alignment"]
    title: str
    reference: Array
    engine: Array
    image: Array | None = None
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn (ValueError): unknown kinds, arrays or tokens that do not fit each other."""
        shape = np.shape(self.reference)
        if self.kind not in ("spatial", "alignment"):
            raise ValueError(f"unknown kind of figure {self.kind!r}")
        if len(shape) != 2 or 0 in shape or np.shape(self.engine) != shape:
            raise ValueError(f"'{self.title}': shapes {shape} and {np.shape(self.engine)} are not one (rows, columns)")
        if self.kind == "spatial" and (self.image is None or np.ndim(self.image) != 2 or not np.size(self.image)):
            raise ValueError(f"'{self.title}': a spatial figure needs an image (H, W)")
        if self.kind == "alignment" and (len(self.target), len(self.source)) != shape:
            raise ValueError(f"'{self.title}': {len(self.target)} by {len(self.source)} tokens for weights {shape}")


def save(path: Path, raw: RawSamples | None, attention: Sequence[AttentionFigure]) -> None:
    """Write all evidence as one ``.npz``; texts go in as JSON, nothing is pickled."""
    arrays: dict[str, Array] = {}
    if raw is not None:
        arrays |= {f"latency.{name}": getattr(raw, name) for name in COLUMNS}
    texts = []
    for i, figure in enumerate(attention):
        arrays |= {f"attention.{i}.reference": figure.reference, f"attention.{i}.engine": figure.engine}
        if figure.image is not None:
            arrays[f"attention.{i}.image"] = figure.image
        words = {"source": list(figure.source), "target": list(figure.target)}
        texts.append({"kind": figure.kind, "title": figure.title, **words})
    arrays["attention"] = np.frombuffer(json.dumps(texts).encode(), np.uint8)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def load(path: Path) -> tuple[RawSamples | None, tuple[AttentionFigure, ...]]:
    """What ``save`` wrote; nothing if the file is absent.

    Raises:
        BadInput: it is not such a file, or it would unpack to more than 256 MiB.
    """
    if not path.is_file():
        return None, ()
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_EVIDENCE_BYTES:
                raise ValueError(f"it unpacks to more than {MAX_EVIDENCE_BYTES >> 20} MiB")
        with np.load(path, allow_pickle=False) as arrays:
            return _raw(arrays), _figures(arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        hint = "delete it to report without plots of raw data, or run again"
        raise BadInput(f"is not the evidence of a run: {error}", where=str(path), hint=hint) from None


def _raw(arrays: Arrays) -> RawSamples | None:
    if f"latency.{COLUMNS[0]}" not in arrays:
        return None
    columns = [np.asarray(arrays[f"latency.{name}"], np.float64).reshape(-1) for name in COLUMNS]
    if len({len(c) for c in columns}) != 1:
        raise ValueError("latency columns differ in length")
    return RawSamples(*columns)


def _figures(arrays: Arrays) -> tuple[AttentionFigure, ...]:
    texts = json.loads(arrays["attention"].tobytes()) if "attention" in arrays else []
    return tuple(_figure(arrays, i, text) for i, text in enumerate(texts))


def _figure(arrays: Arrays, index: int, text: dict[str, Any]) -> AttentionFigure:
    head = f"attention.{index}"
    return AttentionFigure(
        kind=text["kind"],
        title=str(text["title"]),
        reference=arrays[f"{head}.reference"],
        engine=arrays[f"{head}.engine"],
        image=arrays.get(f"{head}.image"),
        source=tuple(map(str, text["source"])),
        target=tuple(map(str, text["target"])),
    )
