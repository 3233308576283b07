"""Numbers written out in English, to digits: "four hundred and seven thousand, two hundred and six" becomes "407206".

Every number from 0 to 999,999 has one digit string, without leading zeros, and up to sixteen spellings: with and
without "and" (before what is below a hundred), a hyphen or a space in "forty-two", a comma after "thousand", and "a"
or "one" where the number begins with "one hundred" or "one thousand". Exact match over the output.

The texts are generated and seeded. Train and test share no number: one in the test split is never seen in training
in any spelling. Ninety per cent of the numbers have six digits, so both splits are drawn by length instead, and the
short ones that people write most have their share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product

import numpy as np

from edgeattn.tasks._characters import END, PAD, SOURCE_SPECIALS, START, TARGET_SPECIALS, UNKNOWN, Characters, score

__all__ = ["END", "PAD", "START", "TASK", "UNKNOWN", "score"]

UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SOURCE_TOKENS = (*SOURCE_SPECIALS, *" ,-", *"abcdefghijklmnopqrstuvwxyz")
TARGET_TOKENS = (*TARGET_SPECIALS, *"0123456789")
TARGET_LENGTH = 7  # six digits and the end token
MAX_LENGTH = 73  # characters of the longest text
HELD_OUT = (2, 18, 180, 600, 800, 900)  # of the numbers of one digit, of two digits, …
TRAIN_TEXTS = 20_000  # of the train stream; ``draw`` gives as many as are wanted
SPLIT_SEED = 2015


@dataclass(frozen=True)
class Spelling:
    """A way to write numbers; call it with one."""

    joined: bool  # two hundred and six
    hyphen: bool  # forty-two
    comma: bool  # one thousand, two hundred
    article: bool  # a hundred

    def __call__(self, number: int) -> str:
        """The number, 0 to 999,999, in lower-case words."""
        thousands, rest = divmod(number, 1000)
        text = self._below_thousand(rest) if rest or not thousands else ""
        if thousands:
            joint = " and " if self.joined and 0 < rest < 100 else ", " if self.comma else " "
            text = f"{self._below_thousand(thousands)} thousand" + (joint + text if rest else "")
        if self.article and text.startswith(("one hundred", "one thousand")):
            text = text.replace("one", "a", 1)
        return text

    def _below_thousand(self, number: int) -> str:
        hundreds, rest = divmod(number, 100)
        if not hundreds:
            return self._below_hundred(rest)
        joint = " and " if self.joined else " "
        return f"{UNITS[hundreds]} hundred" + (joint + self._below_hundred(rest) if rest else "")

    def _below_hundred(self, number: int) -> str:
        if number < len(UNITS):
            return UNITS[number]
        tens, unit = divmod(number, 10)
        return TENS[tens - 2] + (("-" if self.hyphen else " ") + UNITS[unit] if unit else "")


FORMS = tuple(Spelling(*choice) for choice in product((True, False), repeat=4))


@cache
def _by_length() -> tuple[Sequence[np.ndarray[tuple[int], np.dtype[np.int64]]], ...]:
    """The numbers of one digit, of two, …, each in a fixed shuffled order, the held-out ones first.

    ``RandomState`` is used because its stream is frozen for all numpy versions.
    """
    random = np.random.RandomState(SPLIT_SEED)
    edges = [0, *(10**digits for digits in range(1, len(HELD_OUT) + 1))]
    return tuple(low + random.permutation(high - low) for low, high in pairwise(edges))


@cache
def held_out() -> tuple[int, ...]:
    """The test numbers, in a fixed shuffled order."""
    numbers = np.concatenate([part[:held] for part, held in zip(_by_length(), HELD_OUT, strict=True)])
    return tuple(np.random.RandomState(SPLIT_SEED).permutation(numbers).tolist())


def draw(random: np.random.RandomState, count: int) -> list[int]:
    """Training numbers, with repetition, in the shares of lengths that the test split has."""
    parts, held = _by_length(), np.array(HELD_OUT)
    lengths = random.choice(len(held), count, p=held / held.sum())
    indices = random.randint(held[lengths], np.array([len(part) for part in parts])[lengths])
    return [int(parts[length][index]) for length, index in zip(lengths, indices, strict=True)]


def pairs(part: str) -> Iterator[tuple[str, str]]:
    """(text, digits) of the numbers of ``train``, drawn, or of ``test``, each once; the forms take turns."""
    numbers = held_out() if part == "test" else draw(np.random.RandomState(SPLIT_SEED), TRAIN_TEXTS)
    for index, number in enumerate(numbers):
        yield FORMS[index % len(FORMS)](number), str(number)


_TEXT = Characters(
    SOURCE_TOKENS,
    TARGET_TOKENS,
    MAX_LENGTH,
    TARGET_LENGTH,
    "whole numbers from zero to 999,999 in English words; digits without leading zeros",
)
encode, encode_targets, decode, read, assets = (
    _TEXT.encode, _TEXT.encode_targets, _TEXT.decode, _TEXT.read, _TEXT.assets,
)  # fmt: skip
TASK = _TEXT.task("numbers", pairs, "numbers in English words to digits (2,500 held-out numbers): exact match")
