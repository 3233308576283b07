"""Dates as people write them, to ISO 8601: "3rd of march, 1999" becomes "1999-03-03". Exact match over the output.

Conventions, so that each text has one reading: all-digit forms put the day first ("04/12/01" is 4 December 2001)
unless they start with a four-digit year; two digits of a year mean 1950 to 2049; a weekday is decoration and decides
nothing. Case carries no meaning: text is lower-cased before it is encoded.

The texts are generated, seeded, from every day of 1950 to 2049. Train and test share no date: a date in the test
split is never seen in training in any spelling.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np

from edgeattn.tasks._characters import END, PAD, SOURCE_SPECIALS, START, TARGET_SPECIALS, UNKNOWN, Characters, score

__all__ = ["END", "PAD", "START", "TASK", "UNKNOWN", "score"]

Date = datetime.date

MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SOURCE_TOKENS = (*SOURCE_SPECIALS, *" ,./-'", *"0123456789", *"abcdefghijklmnopqrstuvwxyz")
TARGET_TOKENS = (*TARGET_SPECIALS, "-", *"0123456789")
TARGET_LENGTH = 11  # ten characters and the end token
MAX_LENGTH = 40  # characters of the longest text
TEST_DATES, SPLIT_SEED = 2500, 1999


def ordinal(day: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``11th`` …"""
    ending = "th" if 10 <= day % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"


def _month(d: Date) -> str:
    return MONTHS[d.month - 1]


def _weekday(d: Date) -> str:
    return WEEKDAYS[d.weekday()]


def _yy(d: Date) -> str:
    return f"{d.year % 100:02d}"


FORMS: tuple[Callable[[Date], str], ...] = (
    lambda d: f"{ordinal(d.day)} of {_month(d)}, {d.year}",  # 3rd of march, 1999
    lambda d: f"{_weekday(d)[:3]} {d.day:02d}/{d.month:02d}/{_yy(d)}",  # tue 04/12/01
    lambda d: f"{_month(d)} {d.day}, {d.year}",  # march 3, 1999
    lambda d: f"{_month(d)} {ordinal(d.day)} {d.year}",  # march 3rd 1999
    lambda d: f"{d.day} {_month(d)} {d.year}",  # 3 march 1999
    lambda d: f"{d.day} {_month(d)[:3]} {d.year}",  # 3 mar 1999
    lambda d: f"{d.day} {_month(d)[:3]}. '{_yy(d)}",  # 3 mar. '99
    lambda d: f"{d.day:02d}-{_month(d)[:3]}-{d.year}",  # 03-mar-1999
    lambda d: f"{d.day:02d}/{d.month:02d}/{d.year}",  # 03/03/1999
    lambda d: f"{d.day}.{d.month}.{d.year}",  # 3.3.1999
    lambda d: f"{d.day}.{d.month:02d}.{_yy(d)}",  # 3.03.99
    lambda d: f"{d.day}-{d.month}-{_yy(d)}",  # 3-3-99
    lambda d: f"{d.year}/{d.month}/{d.day}",  # 1999/3/3
    lambda d: f"{d.year} {_month(d)} {d.day}",  # 1999 march 3
    lambda d: f"{_weekday(d)}, {d.day} {_month(d)} {d.year}",  # wednesday, 3 march 1999
    lambda d: f"{_weekday(d)[:3]}, {_month(d)[:3]} {d.day}, {d.year}",  # wed, mar 3, 1999
    lambda d: f"{_weekday(d)} the {ordinal(d.day)} of {_month(d)} {d.year}",  # wednesday the 3rd of march 1999
    lambda d: f"{_month(d)[:3]} {ordinal(d.day)}, '{_yy(d)}",  # mar 3rd, '99
    lambda d: f"the {ordinal(d.day)} of {_month(d)[:3]} {d.year}",  # the 3rd of mar 1999
    lambda d: f"{d.day:02d}{_month(d)[:3]}{d.year}",  # 03mar1999
)


@cache
def split() -> tuple[Sequence[Date], Sequence[Date]]:
    """The training and the test dates, disjoint, each in a fixed shuffled order.

    ``RandomState`` is used because its stream is frozen for all numpy versions.
    """
    first, last = Date(1950, 1, 1).toordinal(), Date(2049, 12, 31).toordinal()
    days = first + np.random.RandomState(SPLIT_SEED).permutation(last - first + 1)
    dates = [Date.fromordinal(int(day)) for day in days]
    return dates[TEST_DATES:], dates[:TEST_DATES]


def pairs(part: str) -> Iterator[tuple[str, str]]:
    """(text, ISO date) once for every date of ``train`` or ``test``; the forms take turns."""
    for index, date in enumerate(split()[part == "test"]):
        yield FORMS[index % len(FORMS)](date), date.isoformat()


_TEXT = Characters(
    SOURCE_TOKENS,
    TARGET_TOKENS,
    MAX_LENGTH,
    TARGET_LENGTH,
    "day before month unless the year comes first; two-digit years mean 1950 to 2049",
)
encode, encode_targets, decode, read, assets = (
    _TEXT.encode, _TEXT.encode_targets, _TEXT.decode, _TEXT.read, _TEXT.assets,
)  # fmt: skip
TASK = _TEXT.task("dates", pairs, "human-written dates in 20 forms to ISO 8601 (2,500 held-out dates): exact match")
