"""Dates as people write them, to ISO 8601: "3rd of march, 1999" becomes "1999-03-03". Exact match over the output.

Conventions, so that each text has one reading: all-digit forms put the day first ("04/12/01" is 4 December 2001)
unless they start with a four-digit year; two digits of a year mean 1950 to 2049; a weekday is decoration and decides
nothing. Case carries no meaning: text is lower-cased before it is encoded.

The texts are generated, seeded, from every day of 1950 to 2049. Train and test share no date: a date in the test
split is never seen in training in any spelling.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import BadInput
from edgeattn.tasks import EXACT_MATCH, Batch, Task

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays

Date = datetime.date

MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
SOURCE_TOKENS = ("<pad>", "<unk>", *" ,./-'", *"0123456789", *"abcdefghijklmnopqrstuvwxyz")
TARGET_TOKENS = ("<s>", "</s>", "-", *"0123456789")
PAD, UNKNOWN, START, END = 0, 1, 0, 1
TARGET_LENGTH = 11  # ten characters and the end token
MAX_LENGTH = 40  # characters of the longest text
TEST_DATES, SPLIT_SEED = 2500, 1999

_SOURCE_IDS = {token: index for index, token in enumerate(SOURCE_TOKENS)}
_TARGET_IDS = {token: index for index, token in enumerate(TARGET_TOKENS)}


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


def encode(texts: Sequence[str]) -> dict[str, Array]:
    """Texts to ``src`` ``(B, S)`` int64 and ``src_mask`` ``(B, S)`` bool; S is the longest text of the batch.

    Raises:
        BadInput: no text, or one longer than the model was made for.
    """
    if not texts:
        raise BadInput("no text to encode", hint="give at least one")
    texts = [text.lower() for text in texts]
    long = next((text for text in texts if len(text) > MAX_LENGTH), None)
    if long is not None:
        raise BadInput(f"text of {len(long)} characters: '{long}'", hint=f"at most {MAX_LENGTH} are understood")
    lengths = np.array([len(text) for text in texts])
    src = np.full((len(texts), max(int(lengths.max()), 1)), PAD, np.int64)
    for row, text in zip(src, texts, strict=True):
        row[: len(text)] = [_SOURCE_IDS.get(character, UNKNOWN) for character in text]
    return {"src": src, "src_mask": np.arange(src.shape[1]) < lengths[:, None]}


def encode_targets(dates: Sequence[str]) -> Array:
    """ISO dates to tokens ``(B, 11)`` int64, the end token last."""
    return np.array([[*(_TARGET_IDS[c] for c in date), END] for date in dates], np.int64)


def decode(tokens: Array) -> list[str]:
    """Tokens ``(B, T)`` to texts, each up to its first end token; the start token is written as nothing."""
    texts = []
    for row in tokens.tolist():
        ended = row[: row.index(END)] if END in row else row
        texts.append("".join(TARGET_TOKENS[token] for token in ended if token != START))
    return texts


def read(feeds: Arrays, tokens: Array) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The characters of the first text and of the first decoded date, end token included as ``⏎``."""
    length = int(feeds["src_mask"][0].sum())
    source = tuple(SOURCE_TOKENS[i] for i in feeds["src"][0, :length])
    target = decode(tokens[:1])[0]
    return source, (*target, "⏎")


def score(outputs: Arrays, targets: Array) -> Array:
    """1.0 where the whole of ``tokens`` ``(B, steps)`` is the target, else 0.0; ``(B,)`` float64.

    The shorter of the two is padded with the end token: a decoder that stops early, or runs on, is judged alike.
    """
    tokens = outputs["tokens"]
    width = max(tokens.shape[1], targets.shape[1])
    right: Array = (_padded(tokens, width) == _padded(targets, width)).all(1)
    return right.astype(np.float64)


def _padded(tokens: Array, width: int) -> Array:
    return np.pad(tokens, ((0, 0), (0, width - tokens.shape[1])), constant_values=END)


def _batches(part: str, samples: int | None, batch: int) -> Iterator[Batch]:
    rows = list(pairs(part))[:samples]
    for start in range(0, len(rows), batch):
        texts, dates = zip(*rows[start : start + batch], strict=True)
        yield Batch(encode(texts), encode_targets(dates))


def assets() -> Mapping[str, bytes]:
    """The vocabulary: all that an app needs to encode a text and decode the tokens."""
    vocabulary = {
        "source": list(SOURCE_TOKENS),
        "target": list(TARGET_TOKENS),
        "pad": PAD,
        "unknown": UNKNOWN,
        "start": START,
        "end": END,
        "max_length": MAX_LENGTH,
        "lower_case": True,
        "convention": "day before month unless the year comes first; two-digit years mean 1950 to 2049",
    }
    return {"vocabulary.json": json.dumps(vocabulary, indent=1).encode()}


TASK = Task(
    name="dates",
    metric=EXACT_MATCH,
    train=lambda samples, batch: _batches("train", samples, batch),
    test=lambda samples, batch: _batches("test", samples, batch),
    score=score,
    assets=assets,
    read=read,
    about="human-written dates in 20 forms to ISO 8601 (2,500 held-out dates): exact match",
)
