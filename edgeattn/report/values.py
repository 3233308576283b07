"""What the sections of a report are made of: frozen values, figures that may be undefined, and verdicts.

Verdicts: each gate's is ``pass``, ``fail``, ``inconclusive`` (the measurement cannot settle the question) or ``n/a``
(the engine can only be built here, and this gate needs it to run). So is the overall one, but for ``built``: what could
be judged without running the engine holds. Parity may also say ``warn`` (worth reading, blocks nothing) and sections
nobody judged say ``n/a``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from edgeattn.report.strictjson import plain

Verdict = Literal["pass", "fail", "inconclusive", "built"]
GateVerdict = Literal["pass", "fail", "inconclusive", "n/a"]
SectionVerdict = Literal["pass", "warn", "fail", "inconclusive", "n/a"]


def _by_count(value: Any) -> Any:
    return dict(sorted(value.items(), key=lambda kv: (-kv[1], kv[0]))) if isinstance(value, Mapping) else value


Figure = Annotated[float | None, BeforeValidator(plain)]
"""A measured number; None where it is undefined or was not finite."""
Interval = tuple[Figure, Figure]
"""Lower and upper bound; None is an unbounded side."""
Notes = Annotated[dict[str, Any], BeforeValidator(plain)]
Counts = Annotated[dict[str, int], BeforeValidator(_by_count)]


class Value(BaseModel):
    """A frozen value without NaN."""

    # Unknown keys are ignored, so that an older edgeattn reads a newer report of the same schema_version.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def worst(verdicts: Iterable[SectionVerdict]) -> SectionVerdict:
    """The most severe verdict: fail, inconclusive, warn, pass, then ``n/a`` (also of nothing)."""
    seen = set(verdicts)
    order: tuple[SectionVerdict, ...] = ("fail", "inconclusive", "warn", "pass")
    return next((v for v in order if v in seen), "n/a")
