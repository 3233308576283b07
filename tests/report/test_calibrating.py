from __future__ import annotations

from edgeattn.report import page, summary
from edgeattn.report.sections import StageReport
from tests.report import sample

FOUND = {"method": "mse", "settled_from": 128, "grew": 0.031, "fingerprint": "74d8e72254cd9267" * 4}
LINE = "300 samples, mse ranges; 3 % of them grew by more than 5 % after the first 128; data 74d8e72254cd"


def reported(**calibration: object) -> StageReport:
    return StageReport(name="quantize", seconds=1.0, notes={"samples": 300, "calibration": calibration})


def test_both_reports_say_what_was_calibrated_on() -> None:
    result = sample.report(stages=(reported(**FOUND),))
    assert f"Calibrated on {LINE}." in summary.render(result)
    assert f"Calibrated on {LINE}." in page.render(result)


def test_an_older_report_and_one_without_calibration_say_nothing() -> None:
    for stages in ((), (reported(),)):
        assert "Calibrated" not in summary.render(sample.report(stages=stages))


def test_ranges_that_all_settled_are_told_so() -> None:
    told = summary.render(sample.report(stages=(reported(**{**FOUND, "grew": 0.0}),)))
    assert "none of them grew by more than 5 % after the first 128" in told
