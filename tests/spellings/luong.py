"""Luong's multiplicative attention (and his concat score) as decoders write it.

Shapes: query ``(B, D)`` or, for all steps at once, ``(B, T, D)``; memory ``(B, S, D)``, or ``(S, B, D)`` time first;
mask ``(B, S)``, True or 1 at valid positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spellings._masks import MASKS, SOFTMAXES, WEIGHINGS
from tests.spellings._spelling import Expected, Family, spec

FAMILY = Family("luong")
D = 8
QUERY, MEMORY = spec("query", "batch", D), spec("memory", "batch", "source", D)
MASK, FLOATS = spec("mask", "batch", "source", dtype="bool"), spec("mask", "batch", "source")

DOTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bmm": lambda q, k: torch.bmm(k, q.unsqueeze(2)).squeeze(2),
    "bmm-query-first": lambda q, k: torch.bmm(q.unsqueeze(1), k.transpose(1, 2)).squeeze(1),
    "matmul": lambda q, k: torch.matmul(k, q[:, :, None])[..., 0],
    "einsum": lambda q, k: torch.einsum("bd,bsd->bs", q, k),
    "sum-of-products": lambda q, k: (q[:, None] * k).sum(-1),
}


class Luong(nn.Module):
    """softmax(score(query, keys)) · memory, each part in a chosen spelling."""

    def __init__(
        self,
        score: str = "general",
        dot: str = "bmm",
        mask: str = "",
        softmax: str = "softmax",
        weigh: str = "bmm",
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.score, self.w = score, nn.Linear(D, D, bias=bias)
        self.dot, self.mask, self.softmax, self.weigh = DOTS[dot], MASKS[mask], SOFTMAXES[softmax], WEIGHINGS[weigh]

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        keys = self.w(memory) if self.score == "general" else memory
        scores = self.dot(self.w(query) if self.score == "general-on-query" else query, keys)
        return self.weigh(self.softmax(self.mask(scores, mask)), memory)


class Einsummed(nn.Module):
    """The whole bilinear form in one einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(D, D))

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        weights = torch.softmax(torch.einsum("bd,de,bse->bs", query, self.w, memory), -1)
        return torch.einsum("bs,bsd->bd", weights, memory)


class Concat(nn.Module):
    """vᵀ tanh(W [h; h̄]): the query is copied beside every position."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling, self.join, self.v = spelling, nn.Linear(2 * D, D), nn.Linear(D, 1, bias=False)
        self.vector = nn.Parameter(torch.randn(D))

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        length = memory.shape[1]
        if self.spelling == "repeat":
            wide = query.unsqueeze(1).repeat(1, length, 1)
        else:
            wide = query.unsqueeze(1).expand(-1, length, -1)
        energy = torch.tanh(self.join(torch.cat((wide, memory), 2)))
        scores = torch.sum(self.vector * energy, 2) if self.spelling == "sum" else self.v(energy).squeeze(2)
        return torch.bmm(F.softmax(scores, 1).unsqueeze(1), memory).squeeze(1)


class TimeFirst(nn.Module):
    """The tutorial's: memory ``(S, B, D)``, scores ``(S, B)`` transposed before the softmax."""

    def __init__(self, score: str, transpose: bool = True) -> None:
        super().__init__()
        self.score, self.transpose, self.w = score, transpose, nn.Linear(D, D)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        keys = self.w(memory) if self.score == "general" else memory
        scores = torch.sum(query * keys, 2)  # (S, B)
        if self.transpose:
            weights = F.softmax(scores.t(), 1).unsqueeze(1)
            return weights.bmm(memory.transpose(0, 1)).squeeze(1)
        return (F.softmax(scores, 0).unsqueeze(2) * memory).sum(0)


class AllSteps(nn.Module):
    """Every decoder step at once, ``(B, T, D)``, as in training."""

    def __init__(self, score: str, einsum: bool = False) -> None:
        super().__init__()
        self.score, self.einsum, self.w = score, einsum, nn.Linear(D, D, bias=False)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        keys = self.w(memory) if self.score == "general" else memory
        if self.einsum:
            weights = torch.softmax(torch.einsum("btd,bsd->bts", query, keys), 2)
            return torch.einsum("bts,bsd->btd", weights, memory)
        return torch.softmax(query @ keys.transpose(1, 2), -1) @ memory


class LocalP(nn.Module):
    """Local-p: a predicted centre, a window, a Gaussian on the weights."""

    def __init__(self, window: bool) -> None:
        super().__init__()
        self.window, self.w = window, nn.Linear(D, D, bias=False)
        self.locate = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, 1), nn.Sigmoid())

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        length = memory.shape[1]
        distance = torch.arange(length, dtype=query.dtype) - length * self.locate(query)
        scores = torch.bmm(self.w(memory), query.unsqueeze(2)).squeeze(2)
        if self.window:
            scores = scores.masked_fill(distance.abs() > 3, -1e9)
        weights = torch.softmax(scores, 1) * torch.exp(-distance.square() / (2 * 1.5**2))
        return torch.bmm(weights.unsqueeze(1), memory).squeeze(1)


class Step(nn.Module):
    """A whole decoder step: embedding, cell, attention over a memory whose keys may be handed over."""

    def __init__(self, cell: str, keys: bool) -> None:
        super().__init__()
        self.keys, self.embed, self.w = keys, nn.Embedding(5, D), nn.Linear(D, D, bias=False)
        self.cell = nn.LSTMCell(D, D) if cell == "lstm" else nn.GRUCell(D, D)
        self.combine, self.out = nn.Linear(2 * D, D), nn.Linear(D, 5)

    def forward(self, token: Tensor, h: Tensor, memory: Tensor, keys: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(self.embed(token), (h, h))[0] if isinstance(self.cell, nn.LSTMCell) else self.cell(
            self.embed(token), h
        )  # fmt: skip
        scores = torch.bmm(keys if self.keys else self.w(memory), h.unsqueeze(2)).squeeze(2)
        weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), 1)
        context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
        return self.out(torch.tanh(self.combine(torch.cat((context, h), 1)))), h


def _luong(name: str, *expected: object, **options: object) -> None:
    score = str(options.get("score", "general"))
    facts = {"score": score.split("-")[0], "keys": "inside" if score == "general" else "raw", **dict(expected)}
    mask = () if "mask" not in options else ((FLOATS,) if str(options["mask"]).startswith("float") else (MASK,))
    FAMILY.add(f"luong-{name}", lambda: Luong(**options), (QUERY, MEMORY, *mask), Expected("luong", facts))


for dot in DOTS:
    _luong(f"dot-{dot}", score="dot", dot=dot)
    _luong(f"general-{dot}", dot=dot, bias=dot == "matmul")
_luong("general-on-query", score="general-on-query")
for softmax in list(SOFTMAXES)[1:]:
    _luong(f"softmax-{softmax}", softmax=softmax)
for weigh in list(WEIGHINGS)[1:]:
    _luong(f"weigh-{weigh}", weigh=weigh)
for mask, form in {
    "-inf": "where -inf",
    "-1e9": "where -1e9",
    "finfo-min": "where finfo.min",
    "where": "where -inf",
    "float-added": "add finfo.min",
    "float-added-1e9": "add -1e9",
    "float-multiplied": "multiply",
    "float-to-bool": "where -inf",
    "masked-softmax": "where -inf",
    "weights-multiplied": "multiply",
}.items():
    _luong(f"mask-{mask}", ("mask", form), mask=mask)
MULTIPLE = (spec("query", "batch", "target", D), MEMORY)
TIMES = (QUERY, spec("memory", "source", "batch", D))
FAMILY.add("luong-einsum-bilinear", Einsummed, (QUERY, MEMORY), Expected("luong", {"score": "general"}))
for way in ("expand", "repeat", "sum"):
    FAMILY.add(f"luong-concat-{way}", lambda w=way: Concat(w), (QUERY, MEMORY), Expected("luong", {"score": "concat"}))
for score in ("dot", "general"):
    found = Expected("luong", {"score": score})
    FAMILY.add(f"luong-time-first-{score}", lambda s=score: TimeFirst(s), TIMES, found)
    FAMILY.add(f"luong-time-first-{score}-dim-0", lambda s=score: TimeFirst(s, False), TIMES, found)
    FAMILY.add(f"luong-all-steps-{score}", lambda s=score: AllSteps(s), MULTIPLE, found)
    FAMILY.add(f"luong-all-steps-{score}-einsum", lambda s=score: AllSteps(s, True), MULTIPLE, found)
for window in (True, False):
    found = Expected("luong", {"score": "general", "local": True})
    FAMILY.add(f"luong-local-p{'-window' * window}", lambda w=window: LocalP(w), (QUERY, MEMORY), found)
for cell in ("lstm", "gru"):
    for keys in (True, False):
        found = Expected("luong", {"keys": "handed" if keys else "inside", "state": "current", "mask": "where -inf"})
        inputs = (
            spec("token", "batch", dtype="int64"), spec("h", "batch", D), MEMORY, spec("keys", "batch", "source", D),
            MASK,
        )  # fmt: skip
        FAMILY.add(
            f"luong-step-{cell}{'-keys' * keys}",
            lambda c=cell, k=keys: Step(c, k), inputs, found, outputs=("logits", "h_out"),
        )  # fmt: skip
