"""The sets that spare the most noise for their work, against all sets there are."""

from __future__ import annotations

import itertools

import numpy as np

from edgeattn.quantize import _front
from edgeattn.quantize._front import front


def total(members, values) -> float:
    return float(sum(values[i] for i in members))


def test_no_set_of_as_little_work_spares_more() -> None:
    rng = np.random.default_rng(0)
    work, noise = rng.random(9), rng.random(9) ** 4
    found = front(work, noise)
    assert found[0] == ()
    assert found[-1] == tuple(range(9))
    every = [s for n in range(10) for s in itertools.combinations(range(9), n)]
    for members in found:
        # Sums in another order differ in the last place.
        best = max(total(s, noise) for s in every if total(s, work) <= total(members, work) + 1e-12)
        assert total(members, noise) >= best - 1e-12


def test_a_thinned_front_keeps_its_ends_and_its_order(monkeypatch) -> None:
    monkeypatch.setattr(_front, "_MOST", 20)
    rng = np.random.default_rng(1)
    work, noise = rng.random(30), rng.random(30)
    found = front(work, noise)
    assert len(found) == 20
    assert (found[0], found[-1]) == ((), tuple(range(30)))
    for values in (work, noise):
        assert (np.diff([total(s, values) for s in found]) > 0).all()


def test_groups_without_work_or_noise_do_no_harm() -> None:
    assert front([], []) == [()]
    assert front([0.5, 0.0], [0.0, 1.0]) == [(1,)]
