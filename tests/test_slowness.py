"""Whether INT8 pays, from figures; what is looked into, in tests/cli/test_explaining.py."""

from __future__ import annotations

import pytest

from edgeattn.report.schema import Comparison, Contender, Latencies, Ratio
from edgeattn.slowness import verdict


def entry(name: str, ms: float, speedup: tuple[float, float] | None = None, control: float = 0.003) -> Contender:
    ratio = None if speedup is None else Ratio(median=sum(speedup) / 2, ci95=speedup)
    return Contender(
        name=name,
        latency=Latencies(p50_ms=ms, n=60),
        speedup=ratio,
        aa_control=None if speedup is None else Ratio(median=1.0, ci95=(1 - control, 1 + control)),
    )


def compared(*floats: Contender) -> Comparison:
    control = Ratio(median=1.0, ci95=(0.997, 1.003))
    return Comparison(entries=(entry("int8", 2.0), *floats), aa_control=control, rounds=60, threads=1, verdict="pass")


@pytest.mark.parametrize(
    ("floats", "ship", "words"),
    [
        ([entry("fp32", 4.0, (0.49, 0.51))], "int8", "INT8 pays here: 2.00x the speed of fp32"),
        ([entry("fp32", 1.0, (1.9, 2.1))], "fp32", "does not pay here: 0.50x the speed of fp32; ship fp32"),
        ([entry("fp32", 4.0, (0.49, 0.51)), entry("bf16", 1.6, (1.2, 1.3))], "bf16", "ship bf16"),
        ([entry("fp32", 1.6, (1.24, 1.26)), entry("bf16", 1.59, (1.25, 1.27))], "fp32", "ship fp32"),
        ([entry("fp32", 2.0, (0.99, 1.01))], "", "not surely faster than fp32"),
        (
            [entry("fp32", 2.4, (0.82, 0.84)), entry("bf16", 2.0, (0.99, 1.01))],
            "",
            "its size, ship bf16",
        ),
        # On a machine that differs from itself by a tenth, a tenth is no difference.
        ([entry("fp32", 1.8, (1.08, 1.12), control=0.1)], "", "not surely faster than fp32"),
    ],
)
def test_what_to_ship_follows_from_the_paired_figures(floats: list[Contender], ship: str, words: str) -> None:
    said = verdict(compared(*floats))
    assert said.ship == ship
    assert words in said.why
    assert said.speedup["fp32"] == pytest.approx(1 / floats[0].speedup.median)  # type: ignore[union-attr,operator]
