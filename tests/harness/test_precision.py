"""What ran, held beside what was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from edgeattn.backends._common import precision_summary
from edgeattn.harness.precision import audit, labelled
from edgeattn.report import gates

MACS = {"wide": 900, "narrow": 60, "head": 40}


def graph(**ran: str) -> dict[str, Any]:
    return {"precision": precision_summary(list(ran.items()), MACS)}


def verdict(requested: str, limit: float | bool = True, **ran: str) -> tuple[str, Any]:
    gate = gates.precision(audit(requested, {"main": graph(**ran)}), limit)
    return gate.verdict, gate.observed


@pytest.mark.parametrize(
    ("requested", "ran", "verdict_", "share"),
    [
        ("int8", ("int8", "fp32", "fp32"), "pass", 0.9),
        ("int8", ("fp32", "int8", "int8"), "fail", 0.1),
        ("int8", ("fp32", "fp32", "fp32"), "fail", 0.0),
        ("bf16", ("fp32", "fp32", "fp32"), "fail", 0.0),
        ("bf16", ("bf16", "bf16", "fp32"), "pass", 0.96),
        ("fp16", ("bf16", "fp16", "fp16"), "fail", 0.1),
        ("fp32", ("bf16", "fp32", "fp32"), "fail", 0.1),
        ("fp32", ("fp32", "fp32", "bf16"), "fail", 0.96),
        ("fp32", ("int8", "fp32", "fp32"), "pass", 1.0),
        ("int8", ("int8", "bf16", "bf16"), "pass", 0.9),
    ],
)
def test_most_of_the_work_runs_in_what_was_asked_for_or_the_gate_fails(
    requested: str, ran: tuple[str, str, str], verdict_: str, share: float
) -> None:
    got = verdict(requested, **dict(zip(MACS, ran, strict=True)))
    assert got == (verdict_, pytest.approx(share))


def test_nothing_in_int8_fails_whatever_the_limit() -> None:
    float_only = dict.fromkeys(MACS, "fp32")
    assert verdict("int8", 0.0, **float_only)[0] == "fail"
    assert verdict("int8", 0.05, wide="fp32", narrow="int8", head="fp32")[0] == "pass"


def test_the_largest_layers_elsewhere_are_named() -> None:
    gate = gates.precision(audit("int8", {"main": graph(wide="fp32", narrow="fp32", head="int8")}))
    assert "4.00 % of the work is as asked" in gate.why
    assert "largest elsewhere: wide (fp32, 90.00 %), narrow (fp32, 6.00 %)" in gate.why


def test_a_float_graph_cannot_hide_behind_an_int8_one() -> None:
    found = audit(
        "int8", {"encoder": graph(**dict.fromkeys(MACS, "int8")), "step": graph(**dict.fromkeys(MACS, "fp32"))}
    )
    assert found.share == found.int8_share == 0.5
    assert found.macs_in == {"int8": 1000, "fp32": 1000}


def test_work_whose_name_the_engine_lost_is_nobodys() -> None:
    found = audit("int8", {"main": graph(wide="int8", other="fp32")})
    assert found.macs_in == {"int8": 900, "unknown": 100}
    # Where all that is executed agrees, a lost name loses nothing.
    assert audit("fp32", {"main": graph(other="fp32")}).macs_in == {"fp32": 1000}


def test_a_label_over_nothing_is_refused() -> None:
    empty = {"main": {"precision": precision_summary([], {})}}
    assert gates.precision(audit("int8", empty)).verdict == "fail"
    assert gates.precision(audit("fp32", empty)).verdict == "pass"


def test_bundles_from_before_shares_were_recorded_are_still_judged() -> None:
    old = {"main": {"precision": {"label": "int8", "counts": {"fp32": 1, "int8": 2}, "macs": 1000, "int8_macs": 900}}}
    assert gates.precision(audit("int8", old)).observed == 0.9
    assert labelled("int8", {"main": {"device": "cpu"}}) is None
