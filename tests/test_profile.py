from __future__ import annotations

import numpy as np
import pytest

from edgeattn import profile
from edgeattn.errors import UsageError
from edgeattn.program import Case, Program, Reference, Stop, Wiring
from tests.graphs import conv_net, counter


def seen(*batches: int) -> Program:
    cases = tuple(Case(f"c{i}", {"image": np.zeros((b, 3, 8, 8), np.float32)}) for i, b in enumerate(batches))
    return Program({"main": conv_net()}, reference=Reference("test", cases))


@pytest.mark.parametrize(
    ("text", "span"), [("1:4:8", (1, 4, 8)), ([1, 4, 8], (1, 4, 8)), (8, (8, 8, 8)), ("0:0:1", (0, 0, 1))]
)
def test_a_span_is_least_typical_and_largest(text: object, span: profile.Span) -> None:
    assert profile.parse_span(text) == span


@pytest.mark.parametrize("text", ["4:2:8", "1:2", "-1:2:3", "a", True, [1, 2], "1:2:9999999999", "0:0:0", [1, 2, 3.5]])
def test_a_span_out_of_order_or_range_is_none(text: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        profile.parse_span(text)


def test_a_bucket_names_each_dimension_once() -> None:
    assert profile.parse_bucket("batch=1:4:8,x:1=16") == {"batch": (1, 4, 8), "x:1": (16, 16, 16)}
    for wrong in ("batch", "batch=1,batch=2", "=1", ""):
        with pytest.raises(ValueError, match=r"NAME=LEAST|twice"):
            profile.parse_bucket(wrong)


def test_what_is_not_asked_for_follows_from_the_cases() -> None:
    assert profile.complete(seen(2, 1, 5), []) == ({"batch": (1, 2, 5)},)
    assert profile.complete(seen(2), [{"batch": (1, 1, 1)}, {"batch": (2, 8, 64)}]) == (
        {"batch": (1, 1, 1)},
        {"batch": (2, 8, 64)},
    )


def test_a_state_that_no_case_feeds_grows_to_the_longest_answer() -> None:
    graphs, told = counter()
    dim = graphs["step"].graph.input[0].type.tensor_type.shape.dim[1]
    dim.Clear()
    dim.dim_param = "past"
    program = Program(graphs, Wiring(told["feeds"], told["state"], Stop(**told["stop"])))
    assert profile.of(program, [{"batch": (1, 1, 2)}]) == ({"past": (0, 3, 7), "batch": (1, 1, 2)},)
    with pytest.raises(UsageError, match="no size is known of dimension 'batch'"):
        profile.of(program, [])


def test_a_dimension_that_is_none_or_has_no_size_is_named() -> None:
    with pytest.raises(UsageError, match=r"no dynamic dimension 'bath'; did you mean 'batch'\?"):
        profile.complete(seen(1), [{"bath": (1, 1, 1)}])
    with pytest.raises(
        UsageError, match=r"no size is known of dimension 'batch'; say which it takes: --profile batch="
    ):
        profile.complete(Program({"main": conv_net()}), [])


def test_a_program_is_judged_on_what_its_engine_takes() -> None:
    program = seen(2, 1, 5)
    assert [c.name for c in profile.within(program, ({"batch": (1, 1, 2)},)).cases] == ["c0", "c1"]
    assert len(profile.within(program, ()).cases) == 3
    with pytest.raises(UsageError, match=r"fits batch 7 to 9; the cases take batch 1 to 5"):
        profile.within(program, ({"batch": (7, 8, 9)},))
    assert profile.most(program, ({"batch": (1, 1, 2)}, {"batch": (3, 4, 8)}), 50) == 8
    assert (profile.most(program, (), 50), profile.most(program, ({},), 50)) == (50, 50)


def test_the_first_bucket_that_fits_is_taken() -> None:
    buckets = ({"batch": (1, 1, 1), "n": (1, 8, 16)}, {"batch": (1, 4, 8), "n": (1, 8, 64)})
    assert profile.fitting(buckets, {"batch": 1, "n": 16}) == 0
    assert profile.fitting(buckets, {"batch": 1, "n": 17}) == 1
    assert profile.fitting(buckets, {"batch": 9, "n": 1}) is None
    assert profile.words(buckets[0]) == "batch 1, n 1 to 16"
