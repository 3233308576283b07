"""JSON as the report needs it: no NaN, no doubled keys, nothing that only Python can read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from edgeattn.errors import BadInput, printable


def plain(value: Any) -> Any:
    """JSON-able copy: numpy scalars become Python's, non-finite floats become None, keys become str."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def loads(text: str | bytes, where: str) -> dict[str, Any]:
    """The JSON object in ``text``; raises BadInput for anything else."""
    hint = "name the report.json of a run"
    try:
        data = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise BadInput(f"is not valid JSON: {error}", where=where, hint=hint) from None
    if not isinstance(data, dict):
        raise BadInput(f"holds a JSON {type(data).__name__}, not an object", where=where, hint=hint)
    return data


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"key '{printable(twice, 80)}' appears twice")
    return data
