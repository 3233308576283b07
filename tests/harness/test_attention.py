"""How far two sides attend to the same places."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn.harness.attention import agreement
from edgeattn.report.evidence import AttentionFigure


def alignment(reference: object, engine: object) -> AttentionFigure:
    sides = [np.array(side, np.float32) for side in (reference, engine)]
    rows, columns = sides[0].shape
    return AttentionFigure("alignment", "a", *sides, source=("s",) * columns, target=("t",) * rows)


def test_equal_maps_agree_wholly() -> None:
    seen = agreement([alignment([[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.2, 0.8]])])
    assert seen is not None
    assert (seen.correlation, seen.max_abs, seen.same_focus) == (pytest.approx(1.0), 0.0, 1.0)


def test_a_target_position_that_looks_elsewhere_is_counted_and_the_worst_map_named() -> None:
    good, bad = alignment([[0.9, 0.1]], [[0.8, 0.2]]), alignment([[0.9, 0.1], [0.2, 0.8]], [[0.9, 0.1], [0.7, 0.3]])
    seen = agreement(
        [good, AttentionFigure("alignment", "b", *(bad.reference, bad.engine), source=("s",) * 2, target=("t",) * 2)]
    )
    assert seen is not None
    assert (seen.maps, seen.worst, seen.same_focus) == (2, "b", pytest.approx(2 / 3))
    assert seen.correlation is not None
    assert seen.correlation < 0.9
    assert seen.max_abs == pytest.approx(0.5)


def test_flat_maps_agree_only_at_the_same_height() -> None:
    same, other = (agreement([alignment([[0.5, 0.5]], [[v, v]])]) for v in (0.5, 0.6))
    assert same is not None
    assert other is not None
    assert (same.correlation, other.correlation) == (1.0, 0.0)


def test_nothing_to_compare_is_no_section() -> None:
    assert agreement([]) is None
