"""Held-out samples, and what of the signal a candidate keeps on them."""

from __future__ import annotations

import numpy as np
import pytest

from edgeattn import backends, decode
from edgeattn.program import Case, Program, Stop, Wiring
from edgeattn.quantize._held import BYTES, SAMPLES, Held, compare
from tests.graphs import counter

X = np.array([3.0, 4.0], np.float32)


def case(samples: int = 1, width: int = 2) -> Case:
    return Case("c", {"x": np.zeros((samples, width), np.float32)})


def kept(*pairs: tuple[np.ndarray, np.ndarray | None]):
    cases = [Case(str(i), {}, outputs={"y": ref}) for i, (ref, _) in enumerate(pairs)]
    return compare(cases, lambda c: {} if pairs[int(c.name)][1] is None else {"y": pairs[int(c.name)][1]})


def test_every_fourth_case_is_held_out_and_the_others_calibrate() -> None:
    held, data = Held(), [case() for _ in range(10)]
    given = list(held.split(iter(data)))
    assert [c is data[i] for c, i in zip(held.cases, (3, 7), strict=True)] == [True, True]
    assert len(given) == 8
    assert held.apart


def test_what_is_held_is_bounded_in_samples_and_bytes() -> None:
    held = Held()
    assert len(list(held.split(case(8) for _ in range(40)))) == 40 - SAMPLES // 8
    large = Held()
    list(large.split(case(1, BYTES // 12) for _ in range(20)))  # a third of the room each
    assert len(large.cases) == 3


def test_too_little_data_serves_twice_and_is_known_to() -> None:
    held = Held()
    (given,) = held.split(iter([case()]))
    assert held.cases == [given]
    assert not held.apart


def test_the_worst_case_counts_and_noise_is_of_all_cases() -> None:
    found = kept((X, X), (X, X + np.array([0.05, 0], np.float32)))
    assert found.sqnr_db == pytest.approx(40, abs=1e-4)  # 5 / 0.05, the error rounded to float32
    assert found.noise == pytest.approx(0.05**2 / 50, rel=1e-4)


@pytest.mark.parametrize("out", [None, np.array([np.nan, 4], np.float32), np.zeros(3, np.float32)])
def test_an_output_that_is_missing_or_not_a_number_keeps_nothing(out) -> None:
    assert kept((X, X), (X, out)).sqnr_db == -200


def test_equal_outputs_have_200_db_and_a_case_without_signal_is_not_judged() -> None:
    silent = np.zeros(2, np.float32)
    assert kept((X, X), (silent, silent + 1)).sqnr_db == 200


@pytest.mark.onnxruntime
def test_a_decoder_is_forced_to_what_the_float_program_decoded() -> None:
    graphs, wiring = counter()
    program = Program(graphs, Wiring(wiring["feeds"], wiring["state"], Stop(**wiring["stop"])))
    feeds = {"begin": np.zeros((2, 1), np.float32)}
    sessions = backends.oracle(program)
    held = Held([Case("c", feeds)])
    held.answer(program, sessions)
    (answered,) = held.cases
    greedy = decode.run(sessions, program.wiring, feeds)
    assert set(answered.outputs) == set(greedy) - {"tokens"}
    for name, value in answered.outputs.items():
        np.testing.assert_array_equal(value, greedy[name])
    assert held.signal(program.wiring, sessions).sqnr_db == 200
