from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgeattn.errors import UsageError
from edgeattn.harness.limits import Limits
from edgeattn.harness.metrics import metrics
from edgeattn.harness.parity import judge
from edgeattn.program import Case

RNG = np.random.default_rng(7)


def case(name="normal-b1", golden=False, **outputs):
    arrays = {k: np.asarray(v) for k, v in outputs.items()}
    exact = {k: v.astype(np.float64) for k, v in arrays.items()} if golden else {}
    return Case(name, feeds={}, outputs=arrays, golden=exact)


def verdict(ref, out, limits, name="normal-b1"):
    return judge("s", lambda c: {"y": out}, [case(name, y=ref)], limits).outputs["y"]


def noisy(x, db):
    """x plus noise whose energy is exactly ``db`` below that of x."""
    noise = RNG.standard_normal(x.shape)
    return x + noise * np.linalg.norm(x) / np.linalg.norm(noise) * 10 ** (-db / 20)


# --- metrics: answers known beforehand -------------------------------------------------------------------------


def test_a_known_error_gives_the_known_figures():
    m = metrics(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    # ‖x‖ = 5, ‖x−y‖ = 0.5: exactly 20 dB. float64 arithmetic on such values is good to 1e-12.
    assert m.max_abs == 0.5
    assert m.mean_abs == 0.25
    assert m.sqnr_db == pytest.approx(20.0, abs=1e-9)
    assert m.cosine == pytest.approx((9 + 18) / (5 * np.hypot(3, 4.5)), abs=1e-12)


def test_equal_arrays_report_the_cap_and_not_infinity():
    assert metrics(np.ones(3), np.ones(3)).sqnr_db == 200.0


def test_a_zero_reference_has_neither_sqnr_nor_cosine():
    m = metrics(np.zeros(4), np.full(4, 0.1))
    assert (m.sqnr_db, m.cosine) == (None, None)
    assert m.max_abs == 0.1


def test_a_single_element_has_no_cosine_but_a_relative_error():
    m = metrics(np.array([2.0]), np.array([2.02]))
    assert m.cosine is None
    assert m.sqnr_db == pytest.approx(40.0, abs=1e-9)  # 1 % is 40 dB


def test_a_candidate_of_zeros_has_cosine_zero():
    assert metrics(np.ones(4), np.zeros(4)).cosine == 0.0


def test_nan_and_both_infinities_are_told_apart():
    ref = np.array([np.nan, np.inf, -np.inf, 1.0, np.nan])
    out = np.array([np.nan, -np.inf, -np.inf, np.nan, 2.0])
    assert metrics(ref, out).nonfinite == 3


def test_values_whose_squares_overflow_float64_keep_their_sqnr():
    x = np.array([1e200, -2e200])
    assert metrics(x, x * 1.01).sqnr_db == pytest.approx(40.0, abs=1e-6)


def test_errors_against_float64_are_reported_for_both_sides():
    golden = np.array([1.0, 2.0])
    m = metrics(np.array([1.0, 2.0 + 2e-7]), np.array([1.0 + 1e-6, 2.0]), golden)
    assert m.golden_error == pytest.approx(1e-6, rel=1e-6)
    assert m.ref_golden_error == pytest.approx(2e-7, rel=1e-6)


# --- verdicts and planted faults -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "db", "expected"),
    [
        (Limits.int8(), 30.5, "pass"),
        (Limits.int8(), 26.0, "warn"),
        (Limits.int8(), 19.0, "fail"),
        (Limits.fp16(), 40.5, "pass"),
        (Limits.fp16(), 39.0, "fail"),
        (Limits.bf16(), 30.5, "pass"),
        (Limits.bf16(), 29.0, "fail"),
    ],
)
def test_signal_limits_stand_where_they_are_declared(limits, db, expected):
    x = RNG.standard_normal(10_000)
    assert verdict(x, noisy(x, db), limits).verdict == expected


def test_a_cosine_below_its_limit_fails_although_sqnr_only_warns():
    x = RNG.standard_normal(10_000)
    found = verdict(x, noisy(x, 21.5), Limits.int8())  # 21.5 dB of orthogonal noise is cosine 0.9965
    assert found.verdict == "fail"
    assert "cosine" in found.why


@pytest.mark.parametrize("limits", [Limits.rewrite(), Limits.fp32(), Limits.fp16(), Limits.int8()])
def test_one_planted_nan_fails_at_every_precision_and_on_any_case(limits):
    x = RNG.standard_normal(100)
    broken = x.copy()
    broken[7] = np.nan
    found = judge(
        "s", lambda c: {"y": broken if c.name == "large" else x}, [case("real", y=x), case("large", y=x)], limits
    ).outputs["y"]
    assert found.verdict == "fail"
    assert found.nonfinite == 1
    assert found.worst_case == "large"


def test_nan_where_the_reference_has_nan_is_no_fault():
    x = np.array([1.0, np.nan, 3.0])
    assert verdict(x, x.copy(), Limits.rewrite()).verdict == "pass"


def test_a_reference_without_finite_elements_is_not_called_a_pass():
    x = np.full(3, np.nan)
    assert verdict(x, x.copy(), Limits.fp32()).verdict == "warn"


def test_swapped_outputs_fail_both():
    a, b = RNG.standard_normal((2, 50))
    outputs = judge("s", lambda c: {"a": b, "b": a}, [case(a=a, b=b)], Limits.int8()).outputs
    assert [outputs["a"].verdict, outputs["b"].verdict] == ["fail", "fail"]


def test_a_biased_engine_fails():
    x = RNG.standard_normal(1000)
    assert verdict(x, x + 0.2, Limits.int8()).verdict == "fail"  # bias 0.2 on unit signal is 14 dB


def test_a_missing_output_names_what_there_is():
    found = judge("s", lambda c: {"z": np.ones(1)}, [case(y=np.ones(1))], Limits.fp32()).outputs["y"]
    assert (found.verdict, found.why) == ("fail", "the candidate gives z")


@pytest.mark.parametrize("wrong", [np.ones((1, 4)), np.ones(3)])
def test_a_wrong_shape_fails_even_where_broadcasting_would_hide_it(wrong):
    found = verdict(np.ones((4,)), wrong, Limits.int8())
    assert found.verdict == "fail"
    assert "expected shape (4,)" in found.why
    assert found.max_abs is None


def test_floats_in_place_of_integers_fail():
    assert verdict(np.array([1, 2]), np.array([1.0, 2.0]), Limits.int8()).verdict == "fail"


def test_integers_are_exact_even_past_float64():
    ref = np.array([2**60, 3])
    found = verdict(ref, ref + np.array([1, 0]), Limits.int8())
    assert (found.verdict, found.observed, found.limit) == ("fail", "1 of 2 differ", "equal")


def test_the_worst_case_is_named():
    x = RNG.standard_normal(100)
    factor = {"a": 1e-7, "b": 1e-3, "c": 1e-6}
    cases = [case(n, y=x) for n in factor]
    found = judge("s", lambda c: {"y": x + factor[c.name]}, cases, Limits.rewrite()).outputs["y"]
    assert found.worst_case == "b"
    assert found.max_abs == pytest.approx(1e-3, rel=1e-6)


# --- FP32 against float64 --------------------------------------------------------------------------------------


def golden_case(own_error, scale=1.0):
    golden = RNG.standard_normal(64) * scale
    ref = golden.copy()
    ref[3] += own_error
    return Case("normal", feeds={}, outputs={"y": ref}, golden={"y": golden}), golden


@pytest.mark.parametrize(("error", "expected"), [(2.9e-3, "pass"), (3.1e-3, "fail")])
def test_fp32_allows_three_times_pytorchs_own_error(error, expected):
    c, golden = golden_case(own_error=1e-3)
    found = judge("s", lambda _: {"y": golden + error}, [c], Limits.fp32()).outputs["y"]
    assert found.verdict == expected


@pytest.mark.parametrize(("error", "expected"), [(0.9e-4, "pass"), (1.1e-4, "fail")])
def test_fp32_floor_is_absolute_at_ordinary_magnitudes(error, expected):
    c, golden = golden_case(own_error=1e-7, scale=10.0)
    assert judge("s", lambda _: {"y": golden + error}, [c], Limits.fp32()).outputs["y"].verdict == expected


def test_fp32_floor_grows_with_large_outputs():
    c, golden = golden_case(own_error=0.0, scale=1e6)
    assert judge("s", lambda _: {"y": golden + 0.5}, [c], Limits.fp32()).outputs["y"].verdict == "pass"
    assert judge("s", lambda _: {"y": golden + 50}, [c], Limits.fp32()).outputs["y"].verdict == "fail"


def test_a_rewrite_past_the_tolerance_may_ask_float64_for_a_second_opinion():
    c, golden = golden_case(own_error=1e-3)
    near = judge("s", lambda _: {"y": golden + 1.5e-3}, [c], Limits.rewrite()).outputs["y"]
    far = judge("s", lambda _: {"y": golden + 3e-3}, [c], Limits.rewrite()).outputs["y"]
    assert (near.verdict, far.verdict) == ("pass", "fail")
    assert "no further from float64" in near.why


# --- references that carry no signal ---------------------------------------------------------------------------


def test_a_silent_case_is_judged_by_the_outputs_usual_level():
    x = RNG.standard_normal(1000)
    cases = [case("normal", y=x), case("zeros", y=np.zeros(1000))]

    def at(level):
        out = {"normal": x, "zeros": np.full(1000, level)}
        return judge("s", lambda c: {"y": out[c.name]}, cases, Limits.fp16()).outputs["y"]

    assert at(1e-3).verdict == "pass"  # 60 dB below the usual RMS of 1
    assert at(0.1).verdict == "fail"  # 20 dB
    assert "no signal here" in at(0.1).observed


def test_an_output_that_is_always_zero_must_stay_zero():
    assert verdict(np.zeros(10), np.zeros(10), Limits.int8()).verdict == "pass"
    assert verdict(np.zeros(10), np.full(10, 1e-2), Limits.int8()).verdict == "fail"


def test_an_empty_output_is_not_judged():
    assert verdict(np.zeros((0, 3)), np.zeros((0, 3)), Limits.int8()).verdict == "n/a"


# --- INT8 is judged where it was calibrated --------------------------------------------------------------------


def test_int8_tells_and_does_not_judge_what_lies_outside_its_calibrated_range():
    x = RNG.standard_normal(1000)
    cases = [case("real-b1", y=x), case("large", y=x * 1e4)]
    out = {"real-b1": noisy(x, 35), "large": noisy(x, 35)}
    found = judge("s", lambda c: {"y": out[c.name]}, cases, Limits.int8()).outputs["y"]
    assert (found.verdict, found.worst_case) == ("pass", "real-b1")
    assert found.why.startswith("not judged, outside the calibrated range: ")
    assert found.why.endswith(" on 'large'")
    assert found.sqnr_db == pytest.approx(35, abs=1e-6)  # the figures are those of the cases that count


def test_a_wrong_shape_fails_int8_outside_its_calibrated_range_too():
    x = RNG.standard_normal(10)
    out = {"real-b1": x, "zeros": x[:5]}
    cases = [case("real-b1", y=x), case("zeros", y=x)]
    found = judge("s", lambda c: {"y": out[c.name]}, cases, Limits.int8()).outputs["y"]
    assert (found.verdict, found.worst_case) == ("fail", "zeros")


def test_int8_fails_on_real_cases_however_good_the_others_are():
    x = RNG.standard_normal(1000)
    cases = [case("real-b1", y=x), case("normal", y=x)]
    out = {"real-b1": noisy(x, 10), "normal": x}
    found = judge("s", lambda c: {"y": out[c.name]}, cases, Limits.int8()).outputs["y"]
    assert (found.verdict, found.worst_case) == ("fail", "real-b1")


def test_fp16_is_judged_on_every_case():
    x = RNG.standard_normal(1000)
    out = {"real-b1": x, "ones": noisy(x, 10)}
    found = judge("s", lambda c: {"y": out[c.name]}, [case("real-b1", y=x), case("ones", y=x)], Limits.fp16()).outputs[
        "y"
    ]
    assert found.verdict == "fail"


def test_without_cases_nothing_was_compared():
    assert judge("s", lambda c: {}, [], Limits.fp32()).verdict == "n/a"


# --- overrides -------------------------------------------------------------------------------------------------


def test_an_override_loosens_one_output_and_leaves_the_others():
    x = RNG.standard_normal(100)
    limits = Limits.fp32().override(atol=["y:1e-2"])
    outputs = judge("s", lambda c: {"y": x + 5e-3, "z": x + 5e-3}, [case(y=x, z=x)], limits).outputs
    assert [outputs["y"].verdict, outputs["z"].verdict] == ["pass", "fail"]


def test_an_override_is_taken_to_the_letter_at_large_magnitudes():
    x = np.full(10, 1e6)
    assert verdict(x, x + 0.01, Limits.rewrite().override(atol=["1e-5"])).verdict == "fail"


def test_an_override_may_name_a_tensor_with_a_colon():
    assert Limits.fp32().override(sqnr=["y:0:25"]).for_output("y:0").sqnr_db == 25.0


@pytest.mark.parametrize("option", ["y:", "y:nan", "inf", "y:-1", "abc"])
def test_an_override_that_is_no_tolerance_is_refused(option):
    with pytest.raises(UsageError, match=r"is not a tolerance; give --atol 1e-3, or y:1e-3"):
        Limits.fp32().override(atol=[option])


def test_an_unknown_precision_lists_the_known():
    with pytest.raises(UsageError, match="known: rewrite, fp32, fp16, bf16, int8"):
        Limits.of("fp8")


def test_fp32_allows_three_times_what_rounding_the_weights_once_more_does():
    c, golden = golden_case(own_error=1e-5)
    sensitive = replace(c, rounded={"y": golden + 1e-3})
    off = {"y": (golden + 2.9e-3).astype(np.float32)}
    assert judge("engine", lambda case: off, [c], Limits.fp32()).outputs["y"].verdict == "fail"
    assert judge("engine", lambda case: off, [sensitive], Limits.fp32()).outputs["y"].verdict == "pass"
    further = {"y": (golden + 3.2e-3).astype(np.float32)}
    assert judge("engine", lambda case: further, [sensitive], Limits.fp32()).outputs["y"].verdict == "fail"
