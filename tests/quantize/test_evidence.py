from __future__ import annotations

import numpy as np
import pytest

from edgeattn.errors import BadInput
from edgeattn.program import Case, Reference
from edgeattn.quantize._evidence import FEW, Watched

RNG = np.random.default_rng(0)
PHOTOS = (RNG.uniform(0, 255, (64, 3, 8, 8)) * np.array([1.0, 0.6, 0.3])[:, None, None]).astype(np.float32)


def watched(images: np.ndarray, batch: int = 4) -> Watched:
    result = Watched(Case("c", {"image": images[i : i + batch]}) for i in range(0, len(images), batch))
    assert sum(len(case.feeds["image"]) for case in result) == len(images)
    return result


def warnings(images: np.ndarray, judged: np.ndarray | None = None) -> list[str]:
    reference = None if judged is None else Reference("pytorch eager", (Case("real-8", {"image": judged}),))
    found: list[str] = watched(images).notes({}, reference)["warnings"]
    return found


def test_the_fingerprint_is_the_datas_whatever_its_order_and_batches() -> None:
    first = watched(PHOTOS).fingerprint
    assert len(first) == 64
    assert watched(PHOTOS[::-1], 7).fingerprint == first
    changed = PHOTOS.copy()
    changed[17, 0, 0, 0] += 1
    assert watched(changed).fingerprint != first
    assert watched(np.concatenate([PHOTOS, PHOTOS[:1]])).fingerprint != first


def test_going_through_the_data_again_counts_nothing_twice() -> None:
    seen = Watched([Case("c", {"image": PHOTOS})])
    first = [list(seen), seen.fingerprint][1]
    assert (len(list(seen)), seen.samples, seen.fingerprint) == (1, 64, first)


def test_statistics_are_numpys() -> None:
    figures = watched(PHOTOS).notes({}, None)["inputs"]["image"]
    expected = {"min": PHOTOS.min(), "max": PHOTOS.max(), "mean": PHOTOS.mean(), "std": PHOTOS.std()}
    # float64 sums of 12,288 values against numpy's float32 ones
    assert {key: figures[key] for key in expected} == pytest.approx(
        {k: float(v) for k, v in expected.items()}, rel=1e-4
    )
    assert figures["channels"] == pytest.approx(PHOTOS.mean(axis=(0, 2, 3)).tolist(), rel=1e-4)


def test_good_data_is_not_warned_of() -> None:
    assert warnings(PHOTOS[:32], PHOTOS[32:40]) == []


def test_few_constant_and_repeated_samples_are_warned_of() -> None:
    assert warnings(PHOTOS[:1]) == [f"calibrated on a single sample, which is few: give {FEW} and more"]
    odd = PHOTOS[:40].copy()
    odd[3], odd[9] = 1, 2
    assert warnings(odd) == ["2 of 40 calibration samples are constant: sample 3 is the first"]
    assert warnings(np.repeat(PHOTOS[:1], 40, 0)) == ["39 of 40 calibration samples repeat another"]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda x: x / 255, "as 0 to 255 is against 0 to 1"),
        (lambda x: x[:, ::-1], "red and blue swapped"),
        (lambda x: x + 1000, "another mean"),
        (lambda x: x / 20, "another scale"),
    ],
)
def test_evaluation_data_that_was_preprocessed_differently_is_warned_of(changed, why: str) -> None:
    (said,) = warnings(PHOTOS[:40], changed(PHOTOS[40:]))
    assert said.startswith("'image' looks differently preprocessed for calibration than for evaluation")
    assert f"({why})" in said


def test_ranges_that_still_grew_late_are_warned_of() -> None:
    found = {"grew": 0.6, "settled_from": 16}
    (said,) = watched(PHOTOS).notes(found, None)["warnings"]
    assert said.startswith("ranges have not settled: 60% of them grew by more than 5 % after the first 16 samples")
    assert watched(PHOTOS).notes({"grew": 0.1, "settled_from": 16}, None)["warnings"] == []


def test_a_sample_that_is_not_finite_is_named_by_its_number() -> None:
    broken = PHOTOS.copy()
    broken[21, 1, 2, 3] = np.nan
    with pytest.raises(BadInput, match="calibration sample 21 is not finite in 'image'"):
        watched(broken)
