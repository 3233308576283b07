"""Buckets chosen for a histogram of lengths: the best by trying every choice, and files that are none."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from edgeattn import buckets
from edgeattn.errors import BadInput, UsageError


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_no_other_choice_of_buckets_pads_less(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    histogram = {int(length): int(rng.integers(1, 30)) for length in rng.choice(60, 8, replace=False) + 1}
    chosen = buckets.choose(histogram, number)
    longest = max(histogram)
    others = combinations(sorted(set(histogram) - {longest}), number - 1)
    best = min(buckets.padding(histogram, (*other, longest)) for other in others)
    assert len(chosen) == number
    assert max(chosen) == longest
    assert buckets.padding(histogram, chosen) == pytest.approx(best, abs=1e-12)  # the same sums in another order


def test_as_many_buckets_as_lengths_pad_nothing_and_more_are_not_made() -> None:
    assert buckets.choose({5: 3, 9: 1}, 7) == (5, 9)
    assert buckets.padding({5: 3, 9: 1}, (5, 9)) == 0.0
    assert buckets.padding({4: 1, 8: 1}, (8,)) == 0.25


def test_a_file_of_lengths_is_counted(tmp_path: Path) -> None:
    file = tmp_path / "lengths.txt"
    file.write_text("# met last week\n7\n12 5\n7\n\n30,1\n")
    assert buckets.read(file) == {7: 2, 12: 5, 30: 1}
    assert buckets.parse("2", file) == (12, 30)
    assert buckets.parse("64,16,16") == (16, 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7\nseven\n", "line 2 is no length"),
        ("0\n", "line 1 is no length"),
        ("7 0\n", "holds no length"),
        ("", "holds no length"),
        ("9999999\n", "is longer than 1048576"),
    ],
)
def test_a_file_that_holds_something_else_is_told_by_its_line(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "lengths.txt"
    file.write_text(text)
    with pytest.raises(BadInput, match=message):
        buckets.read(file)


@pytest.mark.parametrize("text", ["", "0", "16,", "a", "-3", "1.5", ",".join(map(str, range(1, 40)))])
def test_what_is_no_list_of_lengths_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        buckets.parse(text)
