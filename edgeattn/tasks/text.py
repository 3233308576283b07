"""English prose, one character after the other: what comes next? Perplexity per character, lower is better.

The corpus is the Python language reference that every Python carries for its ``help()``, ``pydoc_data.topics``. Only
paragraphs of prose are kept: at least 40 characters, four fifths of them letters and spaces; each once. Text is
lower-cased, white space becomes one space, a paragraph ends with ``\\n`` and a topic with the end token; typographic
quotes and dashes become those of ASCII, and any other character outside the alphabet the unknown token.

Every eighth topic, by a hash of its name, is held out, so that no Python's training text holds a topic of another's
test text. Topics quote one another: a paragraph that a held-out topic has is not trained on. The text grows from one
Python version to the next, and figures with it.

A sample is 96 characters of one held-out topic: a prompt of 32, and a continuation of 64 that the model predicts while
it is fed the true one. Its score is the mean negative log-likelihood a character, in nats; the figure is e to the mean
of the samples' scores. Counting reaches, on Python 3.11's text (:func:`baselines` computes it for yours):

    how frequent each character is              21.7
    what followed the last two characters        6.5
    what followed the last four, the best        3.8
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import BadInput
from edgeattn.tasks import PERPLEXITY, Batch, Task

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays

TOKENS = ("</s>", "<unk>", "\n", " ", *".,;:'\"()[]*_-=/", *"0123456789", *"abcdefghijklmnopqrstuvwxyz")
END, UNKNOWN = 0, 1
PROMPT, CONTINUATION = 32, 64  # characters
SAMPLES = 300
SPLIT_SEED = 8

_IDS = {token: index for index, token in enumerate(TOKENS)}
_ASCII = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "—": "-", "–": "-", "…": "..."})


def normalise(text: str) -> str:
    """Text in lower case, with single spaces and ASCII quotes and dashes; paragraphs stay apart by ``\\n``."""
    paragraphs = re.split(r"\n\s*\n", text.translate(_ASCII).lower())
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def encode(text: str) -> Array:
    """Normalised text to tokens ``(T,)`` int64; what the alphabet lacks becomes the unknown token."""
    return np.array([_IDS.get(character, UNKNOWN) for character in text], np.int64)


def decode(tokens: Array) -> list[str]:
    """Tokens ``(B, T)`` to texts, each up to its first end token; an unknown one is written as ``�``."""
    rows = [row[: row.index(END)] if END in row else row for row in tokens.tolist()]
    return ["".join("�" if token == UNKNOWN else TOKENS[token] for token in row) for row in rows]


def prompts(texts: Sequence[str]) -> dict[str, Array]:
    """Texts to the feeds ``tokens`` ``(B, T)`` int64 and ``mask`` ``(B, T)`` bool; T is the longest text's length.

    Raises:
        BadInput: no text.
    """
    if not texts:
        raise BadInput("no text to continue", hint="give at least one")
    rows = [encode(normalise(text)) for text in texts]
    lengths = np.array([len(row) for row in rows])
    tokens = np.full((len(rows), max(int(lengths.max()), 1)), END, np.int64)
    for into, row in zip(tokens, rows, strict=True):
        into[: len(row)] = row
    return {"tokens": tokens, "mask": np.arange(tokens.shape[1]) < lengths[:, None]}


def held_out(topic: str) -> bool:
    """Whether a topic belongs to the test split: decided by its name alone."""
    return hashlib.sha256(topic.encode()).digest()[0] % 8 == 0


@cache
def streams(part: str) -> tuple[Array, ...]:
    """The topics of ``train`` or ``test`` as tokens, each ``(T,)`` int64 with the end token last.

    Raises:
        BadInput: this Python comes without its language reference.
    """
    topics = _topics()
    taken: set[str] = set()
    found: dict[str, list[Array]] = {"test": [], "train": []}
    for topic in sorted(
        topics, key=lambda name: (not held_out(name), name)
    ):  # held-out ones take their paragraphs first
        prose = [p for p in dict.fromkeys(normalise(topics[topic]).split("\n")) if _is_prose(p) and p not in taken]
        taken.update(prose)
        if prose:
            tokens = encode("\n".join(prose) + "\n")
            found["test" if held_out(topic) else "train"].append(np.append(tokens, END))
    return tuple(found[part])


def _topics() -> Mapping[str, str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise BadInput(
            "this Python comes without its language reference (pydoc_data.topics)",
            where="task text",
            hint="use a Python that has it, as those of python.org, conda and the official images do",
        ) from None
    return topics


def _is_prose(paragraph: str) -> bool:
    return len(paragraph) >= 40 and sum(c.isalpha() or c == " " for c in paragraph) >= 0.8 * len(paragraph)


@cache
def windows(part: str) -> Array:
    """Consecutive pieces of ``train`` or ``test``, ``(N, 96)`` int64, in a fixed shuffled order; none spans topics.

    ``RandomState`` is used because its stream is frozen for all numpy versions.
    """
    width = PROMPT + CONTINUATION
    pieces = np.concatenate([s[: len(s) // width * width].reshape(-1, width) for s in streams(part)])
    shuffled: Array = pieces[np.random.RandomState(SPLIT_SEED).permutation(len(pieces))]
    return shuffled if part == "train" else shuffled[:SAMPLES]


def _batches(part: str, samples: int | None, batch: int) -> Iterator[Batch]:
    rows = windows(part)[:samples]
    for start in range(0, len(rows), batch):
        prompt, continuation = np.split(rows[start : start + batch], [PROMPT], axis=1)
        feeds = {"tokens": prompt, "mask": np.ones(prompt.shape, bool)}
        yield Batch(feeds, continuation, tokens=continuation[:, :-1])  # nothing is predicted after the last


def _logits(outputs: Arrays) -> Array:
    """Logits of every predicted character, ``(B, T, V)``: the prompt's for the first, then the steps'."""
    return np.concatenate((outputs["prefill.logits"][None], outputs["logits"])).swapaxes(0, 1)


def score(outputs: Arrays, targets: Array) -> Array:
    """Mean negative log-likelihood of ``targets`` ``(B, T)``, in nats a character; ``(B,)`` float64."""
    logits = _logits(outputs).astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    log_total = np.log(np.exp(shifted).sum(-1))
    likelihood = np.take_along_axis(shifted, targets[..., None], -1)[..., 0] - log_total
    nats: Array = -likelihood.mean(1)
    return nats


def predict(outputs: Arrays, count: int) -> list[Hashable]:
    """The likeliest next characters of each sample, all along its continuation."""
    return [tuple(row) for row in _logits(outputs)[:count].argmax(-1).tolist()]


def right(outputs: Arrays, targets: Array) -> Array:
    """Share of each sample's characters that were the likeliest; ``(B,)`` float64."""
    shares: Array = (_logits(outputs).argmax(-1) == targets).mean(1)
    return shares


def baselines(orders: Sequence[int] = (0, 2)) -> dict[int, float]:
    """Perplexity of character n-grams on the test samples, by how many preceding characters they see.

    Counts of the training text; what was seen k characters back is mixed with what was seen k − 1 back, by how many
    different characters followed (Witten, Bell, 1991), down to a uniform guess.
    """
    counts = _counts(max(orders))
    rows = windows("test").tolist()
    nats = {
        order: [
            -math.log(_likelihood(counts, tuple(r[i - order : i]), r[i])) for r in rows for i in range(PROMPT, len(r))
        ]
        for order in orders
    }
    return {order: math.exp(sum(values) / len(values)) for order, values in nats.items()}


def _counts(longest: int) -> Mapping[tuple[int, ...], Counter[int]]:
    """What followed each history of up to ``longest`` characters."""
    counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for stream in streams("train"):
        text = stream.tolist()
        for i, token in enumerate(text):
            for order in range(min(longest, i) + 1):
                counts[tuple(text[i - order : i])][token] += 1
    return counts


def _likelihood(counts: Mapping[tuple[int, ...], Counter[int]], history: tuple[int, ...], token: int) -> float:
    shorter = _likelihood(counts, history[1:], token) if history else 1 / len(TOKENS)
    if history not in counts:
        return shorter
    followed = counts[history]
    return (followed[token] + len(followed) * shorter) / (followed.total() + len(followed))


def assets() -> Mapping[str, bytes]:
    """The vocabulary: all that an app needs to encode a prompt and read what comes out."""
    vocabulary = {
        "tokens": list(TOKENS),
        "end": END,
        "unknown": UNKNOWN,
        "lower_case": True,
        "paragraphs": "one line each, white space is one space",
    }
    return {"vocabulary.json": json.dumps(vocabulary, indent=1).encode()}


TASK = Task(
    name="text",
    metric=PERPLEXITY,
    train=lambda samples, batch: _batches("train", samples, batch),
    test=lambda samples, batch: _batches("test", samples, batch),
    score=score,
    assets=assets,
    predict=predict,
    also={"next_characters_right": right},
    about="English prose of Python's language reference, character by character (held-out topics): perplexity",
)
