"""What tasks from text to text share: both sides are spelled character by character, with one vocabulary each.

A source vocabulary begins with the padding and the unknown token, a target vocabulary with the start and the end
token. Case carries no meaning: text is lower-cased before it is encoded. Targets are padded with the end token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from edgeattn.errors import BadInput
from edgeattn.tasks import EXACT_MATCH, Batch, Task

if TYPE_CHECKING:
    from edgeattn.program import Array, Arrays

PAD, UNKNOWN, START, END = 0, 1, 0, 1
SOURCE_SPECIALS, TARGET_SPECIALS = ("<pad>", "<unk>"), ("<s>", "</s>")


@dataclass(frozen=True)
class Characters:
    """Texts as tokens and back, and exact match over them.

    Attributes:
        source: source tokens, ``SOURCE_SPECIALS`` first. target: target tokens, ``TARGET_SPECIALS`` first.
        max_length: characters of the longest source text. target_length: tokens of every target, end tokens included.
        convention: what an app has to know about the texts, for the vocabulary file.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    max_length: int
    target_length: int
    convention: str

    @cached_property
    def _source_ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.source)}

    @cached_property
    def _target_ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.target)}

    def encode(self, texts: Sequence[str]) -> dict[str, Array]:
        """Texts to ``src`` ``(B, S)`` int64 and ``src_mask`` ``(B, S)`` bool; S is the longest text of the batch.

        Raises:
            BadInput: no text, or one longer than the model was made for.
        """
        if not texts:
            raise BadInput("no text to encode", hint="give at least one")
        texts = [text.lower() for text in texts]
        long = next((text for text in texts if len(text) > self.max_length), None)
        if long is not None:
            raise BadInput(
                f"text of {len(long)} characters: '{long}'", hint=f"at most {self.max_length} are understood"
            )
        lengths = np.array([len(text) for text in texts])
        src = np.full((len(texts), max(int(lengths.max()), 1)), PAD, np.int64)
        for row, text in zip(src, texts, strict=True):
            row[: len(text)] = [self._source_ids.get(character, UNKNOWN) for character in text]
        return {"src": src, "src_mask": np.arange(src.shape[1]) < lengths[:, None]}

    def encode_targets(self, texts: Sequence[str]) -> Array:
        """Target texts to tokens ``(B, T)`` int64, ended and padded with the end token."""
        rows = [[self._target_ids[character] for character in text] for text in texts]
        return np.array([row + [END] * (self.target_length - len(row)) for row in rows], np.int64)

    def decode(self, tokens: Array) -> list[str]:
        """Tokens ``(B, T)`` to texts, each up to its first end token; the start token is written as nothing."""
        return ["".join(self.target[t] for t in row if t not in (START, END)) for row in map(ended, tokens.tolist())]

    def read(self, feeds: Arrays, tokens: Array) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The characters of the first text and of its decoded translation, the end token as ``⏎``."""
        length = int(feeds["src_mask"][0].sum())
        source = tuple(self.source[i] for i in feeds["src"][0, :length])
        return source, (*self.decode(tokens[:1])[0], "⏎")

    def assets(self) -> Mapping[str, bytes]:
        """The vocabulary: all that an app needs to encode a text and decode the tokens."""
        vocabulary = {
            "source": list(self.source),
            "target": list(self.target),
            "pad": PAD,
            "unknown": UNKNOWN,
            "start": START,
            "end": END,
            "max_length": self.max_length,
            "lower_case": True,
            "convention": self.convention,
        }
        return {"vocabulary.json": json.dumps(vocabulary, indent=1).encode()}

    def task(self, name: str, pairs: Callable[[str], Iterator[tuple[str, str]]], about: str) -> Task:
        """The task whose ``pairs("train")`` and ``pairs("test")`` are (source text, target text)."""

        def batches(part: str, samples: int | None, batch: int) -> Iterator[Batch]:
            rows = islice(pairs(part), samples)
            while some := list(islice(rows, batch)):
                texts, targets = zip(*some, strict=True)
                yield Batch(self.encode(texts), self.encode_targets(targets))

        return Task(
            name=name,
            metric=EXACT_MATCH,
            train=lambda samples, batch: batches("train", samples, batch),
            test=lambda samples, batch: batches("test", samples, batch),
            score=score,
            assets=self.assets,
            read=self.read,
            predict=predict,
            about=about,
        )


def chosen(outputs: Arrays) -> Array:
    """Tokens ``(B, steps)``: a decoder's ``tokens``, or the best of each slot where ``logits`` are ``(B, K, V)``."""
    return outputs["tokens"] if "tokens" in outputs else outputs["logits"].argmax(-1)


def score(outputs: Arrays, targets: Array) -> Array:
    """1.0 where all the chosen tokens are the target, else 0.0; ``(B,)`` float64.

    The shorter of the two is padded with the end token: a decoder that stops early, or runs on, is judged alike.
    """
    tokens = chosen(outputs)
    width = max(tokens.shape[1], targets.shape[1])
    right: Array = (_padded(tokens, width) == _padded(targets, width)).all(1)
    return right.astype(np.float64)


def predict(outputs: Arrays, count: int) -> list[Hashable]:
    """The tokens of each sample up to its first end token, so that padding makes no difference."""
    return [tuple(ended(row)) for row in chosen(outputs)[:count].tolist()]


def ended(row: list[int]) -> list[int]:
    """A row of tokens up to its first end token, which is kept."""
    return row[: row.index(END) + 1] if END in row else row


def _padded(tokens: Array, width: int) -> Array:
    return np.pad(tokens, ((0, 0), (0, width - tokens.shape[1])), constant_values=END)
