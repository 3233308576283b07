from __future__ import annotations

import numpy as np

from edgeattn.cases import answered, draw
from edgeattn.program import TensorSpec

SPECS = [TensorSpec("image", "float32", ("batch", 3, "height", 8)), TensorSpec("mask", "bool", ("batch", "length"))]


def test_every_dynamic_dimension_takes_two_sizes() -> None:
    first, second = draw(SPECS, seed=0)[:2]
    assert first.feeds["image"].shape == (1, 3, 224, 8)
    assert second.feeds["image"].shape == (2, 3, 192, 8)
    assert first.feeds["mask"].shape != second.feeds["mask"].shape


def test_the_same_seed_draws_the_same_values() -> None:
    one, two, other = (draw(SPECS, seed=s)[0].feeds["image"] for s in (3, 3, 4))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_no_mask_row_is_empty() -> None:
    assert all(case.feeds["mask"].any(axis=-1).all() for case in draw(SPECS, seed=0))


def test_integers_are_drawn_from_the_examples_where_there_are_some() -> None:
    specs, known = [TensorSpec("lengths", "int64", ("batch", 5))], np.array([[7, 9, 30]])
    assert {int(v) for case in draw(specs, 0) for v in case.feeds["lengths"].ravel()} <= {0, 1}
    drawn = {int(v) for case in draw(specs, 0, examples={"lengths": known}) for v in case.feeds["lengths"].ravel()}
    assert drawn == {7, 9, 30}


def test_the_oracle_answers_every_case() -> None:
    cases = draw(SPECS, seed=0)
    reference = answered(cases, "a test", lambda c: {"sum": c.feeds["image"].sum(axis=(1, 2, 3))})
    assert reference.origin == "a test"
    assert [c.outputs["sum"].shape for c in reference.cases[:2]] == [(1,), (2,)]
