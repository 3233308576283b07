"""The minimum cut that places Casts."""

from __future__ import annotations

from edgeattn.quantize._flow import ENDLESS, Flow


def test_cuts_where_it_costs_least_and_as_near_to_the_source_as_it_can():
    flow = Flow()
    for edge, capacity in {
        ("s", "a"): 3, ("s", "b"): 2, ("a", "b"): 1, ("a", "t"): 2, ("b", "c"): 2, ("c", "t"): 2, ("s", "d"): ENDLESS,
    }.items():  # fmt: skip
        flow.add(edge, capacity)
    # 4 is the least: what enters t. Of the cuts that cost 4, {b -> c, a -> t} is nearer to s than {c -> t, a -> t}.
    assert flow.source_side("s", "t") == {"s", "a", "b", "d"}


def test_flow_that_took_a_wrong_turn_is_taken_back():
    flow = Flow()
    for edge in [("s", "a"), ("s", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("c", "t"), ("d", "t")]:
        flow.add(edge, 1)
    assert flow.source_side("s", "t") == {"s"}  # both units arrive, so the cut is the two edges at the source
