"""bits64: 64-bit numbers that do not fit the 32 bits in which some engines compute.

TensorRT computes DOUBLE in FLOAT, and before 9.0 INT64 in INT32, clamping what is outside: wrong, without a word.
Indices and shapes fit; a stored number that does not is told.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeattn.capabilities._finding import Found, Target
from edgeattn.capabilities._view import View

_OPEN = 1 << 62  # "to the end" in Slice is written so, and clamping it is right


def find(view: View, target: Target, precision: str) -> Iterator[Found]:
    """Stored INT64 and DOUBLE numbers that would be clamped."""
    engine = target.engine
    if not engine.nvidia:
        return
    limits = {"double": float(np.finfo(np.float32).max)}
    if engine.int64.value == "clamped":
        limits["int64"] = float(2**31 - 1)
    for name in view.initializers:
        limit = limits.get(view.type_of(name))
        value = view.constant(name) if limit is not None else None
        if value is None or not value.size or limit is None:
            continue
        size = np.abs(value[np.isfinite(value)].astype(np.float64))
        if np.any((size > limit) & (size < _OPEN)):
            kind = view.type_of(name).upper()
            reason = f"'{name}' holds {kind} numbers that {engine.title} clamps to 32 bits"
            reader = next(iter(view.consumers.get(name, ())), None)
            where, module = (reader.name, reader.module) if reader else ("", "")
            yield Found(where, reason, "store smaller numbers", "", engine.int64.source, module)


CHECK = find
