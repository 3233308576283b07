"""A machine so busy that too few rounds fit into the time: what is printed then is words, not a traceback."""

from __future__ import annotations

from edgeattn.cli.judging import _span


def test_an_interval_that_could_not_be_told_is_said_in_words():
    assert _span((None, None), 4) == "too few rounds to tell"
    assert _span((1.0, 1.23456), 3) == "1.000 to 1.235"
