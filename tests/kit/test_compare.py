"""The board's comparing is edgeattn's own, figure by figure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from edgeattn.harness import parity
from edgeattn.harness.limits import Limits
from edgeattn.kit.board import compare
from edgeattn.program import Case

rng = np.random.default_rng(0)
X = rng.standard_normal((4, 10)).astype(np.float32)
NAN = np.where(X > 1, np.nan, X).astype(np.float32)
WHOLE = rng.integers(0, 5, (3, 4))
PAIRS = [
    ("close", X, X + 1e-6),
    ("noisy", X, X + 0.02 * rng.standard_normal(X.shape).astype(np.float32)),
    ("wrong", X, X[::-1].copy()),
    ("zeros", np.zeros_like(X), np.full_like(X, 1e-5)),
    ("no signal left", X, np.zeros_like(X)),
    ("same nan", NAN, NAN + 1e-7),
    ("new nan", X, NAN),
    ("all nan", np.full_like(X, np.nan), np.full_like(X, np.nan)),
    ("large", X * 1e6, X * 1e6 + 0.5),
    ("integers", WHOLE, WHOLE),
    ("other integers", WHOLE, WHOLE + 1),
    ("another shape", X, X[:2]),
    ("one element", X[:1, :1], X[:1, :1] * 1.01),
]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("golden", [False, True])
def test_every_verdict_and_figure_is_the_harness_own(precision: str, golden: bool) -> None:
    limits = Limits.of(precision)
    told: dict[str, Any] = {**asdict(limits), "said": str(limits)}
    for names in (["normal-1"], ["real-1", "zeros"]):
        for _, ref, out in PAIRS:
            exact = ref.astype(np.float64) + 1e-7 if golden and ref.dtype.kind == "f" else None
            ours = [Case(n, {}, None, {"y": ref}, {} if exact is None else {"y": exact}) for n in names]
            expected = parity.judge("s", lambda case, out=out: {"y": out}, ours, limits).outputs["y"]
            own = 0.0 if exact is None else float(np.nan_to_num(np.abs(ref.astype(np.float64) - exact)).max())
            theirs = [compare.Case(c.name, {}, None, dict(c.outputs), dict(c.golden), {"y": own}) for c in ours]
            seen = compare.judge(theirs, [{"y": out}] * len(names), told)["y"]
            assert {k: seen[k] for k in ("verdict", "nonfinite", "worst_case", "limit")} == {
                k: getattr(expected, k) for k in ("verdict", "nonfinite", "worst_case", "limit")
            }
            for figure in ("max_abs", "mean_abs", "sqnr_db", "cosine"):
                wanted = getattr(expected, figure)
                assert seen[figure] == (None if wanted is None else pytest.approx(wanted, rel=1e-12))


def test_an_output_that_is_not_there_fails() -> None:
    case = compare.Case("c", {}, None, {"y": X}, {}, {})
    told = {**asdict(Limits.fp16()), "said": ""}
    assert compare.judge([case], [{"z": X}], told)["y"]["verdict"] == "fail"
