"""Inputs for graphs that came with none: which sizes are tried, and what is said when none fits."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn import drawing
from edgeattn.drawing import Given
from edgeattn.errors import BadInput, EngineFailed, UsageError
from edgeattn.program import TensorSpec

IMAGE = TensorSpec("x", "float32", ("?", 3, "?", "?"))


def taken(specs, fits, given=None, told=None):
    """The cases that a pretended graph takes, which refuses sizes that ``fits`` says it does not."""
    tried = []

    def run(case):
        tried.append({name: value.shape for name, value in case.feeds.items()})
        if not all(fits(value.shape) for value in case.feeds.values()):
            raise EngineFailed("Concat: 7 is not 8")

    return drawing.draw(specs, run, given, warn=(told if told is not None else []).append), tried


def test_unnamed_dimensions_are_told_apart_and_the_first_is_the_batch():
    (spec,) = drawing.named([IMAGE])
    assert spec.shape == ("batch", 3, "x.2", "x.3")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (("?", "?"), ("batch", "x.1")),
        ((2, "?", 128), (2, "batch", 128)),  # the state of a recurrent layer
        (("seq_len", "?"), ("seq_len", "x.1")),
        (("N", "sequence"), ("batch", "sequence")),
        (("p2o.DynamicDimension.0", 3, 48, "w"), ("batch", 3, 48, "w")),
        (("height", "width"), ("height", "width")),
        (("?",), ("x.0",)),
    ],
)
def test_what_a_dimension_is_called(shape, expected):
    (spec,) = drawing.named([TensorSpec("x", "float32", shape)])
    assert spec.shape == expected


def test_a_graph_that_takes_multiples_of_32_gets_them_at_two_sizes():
    cases, _ = taken([IMAGE], lambda shape: shape[2] % 32 == 0 and shape[3] % 32 == 0)
    shapes = [case.feeds["x"].shape for case in cases]
    assert all(h % 32 == 0 and w % 32 == 0 for _, _, h, w in shapes)
    assert len(set(shapes[:2])) == 2


def test_a_graph_frozen_at_one_size_is_drawn_at_that_size_alone():
    told = []
    cases, _ = taken([IMAGE], lambda shape: shape == (1, 3, 640, 640), told=told)
    assert told == ["judged at one size of batch = 1, x.2 = 640, x.3 = 640 only: no other that was tried runs"]
    assert {case.feeds["x"].shape for case in cases} == {(1, 3, 640, 640)}


def test_where_no_size_fits_the_engine_is_quoted_and_the_way_out_is_named():
    with pytest.raises(BadInput) as raised:
        taken([IMAGE], lambda shape: False)
    assert "does not run at any size that was tried for its inputs: Concat: 7 is not 8" in str(raised.value)
    assert "--inputs x.npz" in str(raised.value)


def test_a_shape_that_the_user_gives_is_the_first_size():
    given = Given(shapes=[TensorSpec("x", "float32", (1, 3, 96, 160))])
    cases, tried = taken([IMAGE], lambda shape: True, given)
    assert tried[0]["x"] == (1, 3, 96, 160)
    assert cases[1].feeds["x"].shape == (2, 3, 192, 320)


def test_a_shape_that_contradicts_the_graph_is_refused():
    with pytest.raises(BadInput, match=r"input 'x': shape \[1, 4, 96, 160\] does not fit; expected x: float32"):
        taken([IMAGE], lambda shape: True, Given(shapes=[TensorSpec("x", "float32", (1, 4, 96, 160))]))


def test_a_shape_for_an_input_that_is_not_there_is_a_usage_error():
    with pytest.raises(UsageError, match=r"--shape y: there is no input 'y'"):
        taken([IMAGE], lambda shape: True, Given(shapes=[TensorSpec("y", "float32", (1,))]))


def test_real_inputs_come_first_and_what_they_raise_is_the_answer(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.ones((1, 3, 40, 56), np.float32))
    cases, _ = taken([IMAGE], lambda shape: shape[2] % 40 == 0, Given(tmp_path / "x.npz"))
    assert cases[0].name == "real-1"
    assert cases[0].feeds["x"].shape == (1, 3, 40, 56)
    assert cases[1].feeds["x"].shape == (1, 3, 40, 56)
    with pytest.raises(EngineFailed):
        taken([IMAGE], lambda shape: False, Given(tmp_path / "x.npz"))


def test_integers_are_drawn_from_the_users_own(tmp_path):
    spec = TensorSpec("ids", "int64", ("batch", "length"))
    np.savez(tmp_path / "x.npz", ids=np.array([[5, 7, 9]]))
    cases = drawing.draw([spec], lambda case: None, Given(tmp_path / "x.npz"))
    assert {int(i) for case in cases for i in case.feeds["ids"].ravel()} <= {5, 7, 9}


def test_a_symbol_is_the_same_size_wherever_it_stands():
    """As an exporter names a decoder's inputs: one row a sample here, time first there."""
    state, memory = TensorSpec("h", "float32", ("s77", 64)), TensorSpec("m", "float32", ("s17", "s77", 64))
    assert [s.shape for s in drawing.named([memory, state])] == [("s17", "batch", 64), ("batch", 64)]


def test_a_vector_of_lengths_counts_the_batch():
    ids, lengths = TensorSpec("ids", "int64", ("s1", "s2")), TensorSpec("lengths", "int64", ("s1",))
    assert [s.shape for s in drawing.named([ids, lengths])] == [("batch", "s2"), ("batch",)]


def test_the_edges_that_a_graph_takes_are_cases_too():
    specs = [TensorSpec("x", "float32", ("batch", "seq", 4)), TensorSpec("keep", "bool", ("batch", "seq"))]
    drawn = {case.name: case for case in drawing.draw(specs, lambda case: None)}
    assert drawn["length-1"].feeds["x"].shape[1] == 1
    assert not drawn["all-masked"].feeds["keep"].any()
    assert drawn["all-masked"].feeds["x"].shape == drawn["normal-1"].feeds["x"].shape

    def takes_no_less_than_two(case):
        if case.feeds["x"].shape[1] < 2:
            raise BadInput("too short")

    assert "length-1" not in {case.name for case in drawing.draw(specs, takes_no_less_than_two)}


def test_inputs_that_share_no_symbol_each_have_a_batch():
    """As an exporter names them that was not told that they agree."""
    ids, mask = TensorSpec("ids", "int64", ("s72", "s70")), TensorSpec("mask", "int64", ("s43", "s53"))
    assert [s.shape for s in drawing.named([ids, mask])] == [("batch", "s70"), ("batch", "s53")]


def test_texts_are_not_tried_at_lengths_that_take_gigabytes():
    ids = TensorSpec("ids", "int64", ("batch", "length"))
    with pytest.raises(BadInput):
        drawing.draw([ids], run := Refusing(), None)
    assert max(shape[1] for shape in run.shapes) <= 768


class Refusing:
    """A pretended graph that takes nothing, and what it was given."""

    def __init__(self):
        self.shapes = []

    def __call__(self, case):
        self.shapes += [value.shape for value in case.feeds.values()]
        raise EngineFailed("no")
