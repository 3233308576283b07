"""Numbers in digits, to English words: "407,206" becomes "four hundred and seven thousand, two hundred and six".

The way back of ``numbers``, on the same numbers with the same split: 0 to 999,999, a number of the test split is never
seen in training. The digits come bare or with the thousands set apart by a comma, a space or an apostrophe; the words
are spelled one way, the British one: "and" before what is below a hundred, hyphens, a comma after "thousand", "one" and
not "a". Exact match over the output, which is up to 73 characters long: one wrong letter loses the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from edgeattn.tasks import numbers
from edgeattn.tasks._characters import END, PAD, SOURCE_SPECIALS, START, TARGET_SPECIALS, UNKNOWN, Characters

__all__ = ["END", "PAD", "START", "TASK", "UNKNOWN"]

SOURCE_TOKENS = (*SOURCE_SPECIALS, *", '", *"0123456789")
TARGET_TOKENS = (*TARGET_SPECIALS, *" ,-", *"abcdefghijklmnopqrstuvwxyz")
MAX_LENGTH = 7  # six digits and what sets the thousands apart
TARGET_LENGTH = numbers.MAX_LENGTH + 1  # the longest text and the end token

FORMS: tuple[Callable[[int], str], ...] = (
    str,  # 407206
    lambda n: f"{n:,}",  # 407,206
    lambda n: f"{n:,}".replace(",", " "),  # 407 206
    lambda n: f"{n:,}".replace(",", "'"),  # 407'206
)
spell = numbers.Spelling(joined=True, hyphen=True, comma=True, article=False)


def pairs(part: str) -> Iterator[tuple[str, str]]:
    """(digits, words) of the numbers of ``train``, drawn, or of ``test``, each once; the forms take turns."""
    test = part == "test"
    drawn = numbers.held_out() if test else numbers.draw(np.random.RandomState(numbers.SPLIT_SEED), numbers.TRAIN_TEXTS)
    for index, number in enumerate(drawn):
        yield FORMS[index % len(FORMS)](number), spell(number)


_TEXT = Characters(
    SOURCE_TOKENS,
    TARGET_TOKENS,
    MAX_LENGTH,
    TARGET_LENGTH,
    "digits of whole numbers up to 999,999, the thousands set apart or not; British English words",
)
encode, encode_targets, decode = _TEXT.encode, _TEXT.encode_targets, _TEXT.decode
TASK = _TEXT.task("words", pairs, "numbers in digits to English words (2,500 held-out numbers): exact match")
