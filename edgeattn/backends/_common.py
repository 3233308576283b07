"""What every backend needs: thread counts, one-file-per-graph saving, and the effective-precision summary."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeattn.errors import BadInput, EdgeattnError, EngineFailed
from edgeattn.program import TensorSpec

if TYPE_CHECKING:
    from edgeattn.program import Arrays


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def first_line(error: BaseException) -> str:
    """The first meaningful line of an engine's exception text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def precision_summary(executed: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Summarise the multiply-accumulate nodes an engine really executes.

    Args:
        executed: ``(operator, precision)`` for every Conv, MatMul, Gemm or recurrent node in the executed graph.

    Returns:
        ``label`` (the precision of most nodes, ``mixed`` below nine tenths), ``int8_share`` in [0, 1],
        and ``counts`` per precision.
    """
    counts = Counter(precision for _, precision in executed)
    total = sum(counts.values())
    if not total:
        return {"label": "n/a", "int8_share": 0.0, "counts": {}}
    label, most = counts.most_common(1)[0]
    return {
        "label": label if most >= 0.9 * total else "mixed",
        "int8_share": round(counts["int8"] / total, 4),
        "counts": dict(sorted(counts.items())),
    }


def explain_failure(engine: str, error: Exception, inputs: tuple[TensorSpec, ...], feeds: Arrays) -> EdgeattnError:
    """Turn an engine's exception into ours: a feed that does not fit is the caller's, the rest is the engine's."""
    for spec in inputs:
        value = feeds.get(spec.name)
        if value is None:
            return BadInput(f"missing input '{spec.name}'", hint=f"expected {spec}")
        static = [(want, got) for want, got in zip(spec.shape, value.shape, strict=False) if isinstance(want, int)]
        if len(value.shape) != len(spec.shape) or any(want != got for want, got in static):
            return BadInput(f"input '{spec.name}' has shape {list(value.shape)}", hint=f"expected {spec}")
        if str(value.dtype) != spec.dtype:
            return BadInput(f"input '{spec.name}' is {value.dtype}", hint=f"expected {spec}")
    return EngineFailed(first_line(error), where=engine)


def file_size(directory: Path, files: Iterable[str]) -> int:
    """Bytes of the named files together with their siblings of the same stem (``.xml`` + ``.bin``, external data)."""
    stems = {Path(f).stem for f in files}
    return sum(p.stat().st_size for p in directory.iterdir() if p.stem in stems or p.name.split(".")[0] in stems)
