"""Bahdanau's additive attention as decoders write it, and relatives with further terms inside the tanh.

Shapes: query (the previous state) ``(B, D)``, memory ``(B, S, E)`` or ``(S, B, E)`` time first, keys ``(B, S, A)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spellings._masks import MASKS, SOFTMAXES, WEIGHINGS
from tests.spellings._spelling import Expected, Family, spec

FAMILY = Family("bahdanau")
D = 8
QUERY, MEMORY = spec("query", "batch", D), spec("memory", "batch", "source", D)
KEYS = spec("keys", "batch", "source", D)
MASK, FLOATS = spec("mask", "batch", "source", dtype="bool"), spec("mask", "batch", "source")


class ByLinear(nn.Module):
    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.v = nn.Linear(D, 1, bias=bias)

    def forward(self, energy: Tensor) -> Tensor:
        return self.v(energy).squeeze(-1)


class ByVector(nn.Module):
    """vᵀ of the energy ``(B, S, A)`` with v a parameter."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling, self.v = spelling, nn.Parameter(torch.randn(D))

    def forward(self, energy: Tensor) -> Tensor:
        if self.spelling == "matmul":
            return torch.matmul(energy, self.v)
        if self.spelling == "column":
            return torch.matmul(energy, self.v[:, None]).squeeze(2)
        if self.spelling == "einsum":
            return torch.einsum("bsa,a->bs", energy, self.v)
        if self.spelling == "bmm":
            v = self.v.repeat(energy.shape[0], 1).unsqueeze(1)
            return torch.bmm(v, energy.transpose(1, 2)).squeeze(1)
        return (energy * self.v).sum(-1)


class ByConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Conv1d(D, 1, 1, bias=False)

    def forward(self, energy: Tensor) -> Tensor:
        return self.v(energy.transpose(1, 2)).squeeze(1)


VECTORS: dict[str, Callable[[], nn.Module]] = {
    "linear": ByLinear,
    "linear-bias": lambda: ByLinear(True),
    "conv": ByConv,
    **{s: (lambda s=s: ByVector(s)) for s in ("matmul", "column", "einsum", "bmm", "sum")},
}


class Bahdanau(nn.Module):
    """softmax(vᵀ tanh(W q + U m)) · memory, each part in a chosen spelling; ``keys`` are U m from outside."""

    def __init__(
        self,
        v: str = "linear",
        bias: bool = False,
        mask: str = "",
        softmax: str = "softmax",
        weigh: str = "bmm",
        keys: bool = False,
        order: str = "query-first",
    ) -> None:
        super().__init__()
        self.w, self.u, self.v = nn.Linear(D, D, bias=bias), nn.Linear(D, D, bias=bias), VECTORS[v]()
        self.handed, self.order = keys, order
        self.mask, self.softmax, self.weigh = MASKS[mask], SOFTMAXES[softmax], WEIGHINGS[weigh]

    def forward(self, query: Tensor, memory: Tensor, third: Tensor | None = None) -> Tensor:
        keys = third if self.handed else self.u(memory)
        asked = self.w(query)
        if self.order == "expanded":
            energy = torch.tanh(keys + asked.unsqueeze(1).expand_as(keys))
        elif self.order == "repeated":
            energy = torch.tanh(self.w(query.unsqueeze(1).repeat(1, memory.shape[1], 1)) + keys)
        else:
            energy = torch.tanh(asked[:, None] + keys)
        scores = self.mask(self.v(energy), None if self.handed else third)
        return self.weigh(self.softmax(scores), memory)


class TimeFirst(nn.Module):
    """Memory ``(S, B, D)``; the softmax over axis 0 or over transposed scores."""

    def __init__(self, transpose: bool) -> None:
        super().__init__()
        self.transpose, self.w, self.u, self.v = transpose, nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, 1)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        scores = self.v(torch.tanh(self.w(query) + self.u(memory)))  # (S, B, 1)
        if self.transpose:
            weights = F.softmax(scores.squeeze(2).t(), 1)
            return torch.bmm(weights.unsqueeze(1), memory.transpose(0, 1)).squeeze(1)
        return (F.softmax(scores, 0) * memory).sum(0)


class Terms(nn.Module):
    """A third term inside the tanh: coverage (See 2017) or the previous alignment, convolved (Chorowski 2015)."""

    def __init__(self, location: bool) -> None:
        super().__init__()
        self.location = location
        self.w, self.u, self.v = nn.Linear(D, D, bias=False), nn.Linear(D, D), nn.Linear(D, 1, bias=False)
        self.conv, self.f = nn.Conv1d(1, 4, 5, padding=2), nn.Linear(4 if location else 1, D, bias=False)

    def forward(self, query: Tensor, memory: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        felt = self.conv(past.unsqueeze(1)).transpose(1, 2) if self.location else past.unsqueeze(2)
        energy = torch.tanh(self.w(query).unsqueeze(1) + self.u(memory) + self.f(felt))
        weights = torch.softmax(self.v(energy).squeeze(2), -1)
        return torch.bmm(weights.unsqueeze(1), memory).squeeze(1), weights


class Step(nn.Module):
    """A decoder step: the previous state asks, and the context enters the cell."""

    def __init__(self, keys: bool) -> None:
        super().__init__()
        self.keys, self.embed, self.attention = (
            keys,
            nn.Embedding(5, D),
            Bahdanau(keys=keys, mask="" if keys else "-inf"),
        )
        self.cell, self.out = nn.GRUCell(2 * D, D), nn.Linear(D, 5)

    def forward(self, token: Tensor, h: Tensor, memory: Tensor, third: Tensor) -> tuple[Tensor, Tensor]:
        context = self.attention(h, memory, third)
        h = self.cell(torch.cat((self.embed(token), context), 1), h)
        return self.out(h), h


class AllSteps(nn.Module):
    """Every step at once: an energy of four dimensions ``(B, T, S, A)``."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.v = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, 1)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        energy = torch.tanh(self.w(query).unsqueeze(2) + self.u(memory).unsqueeze(1))
        return torch.softmax(self.v(energy).squeeze(3), -1) @ memory


def _bahdanau(name: str, *facts: tuple[str, object], **options: object) -> None:
    third: tuple = ()
    if options.get("keys"):
        third = (KEYS,)
    elif "mask" in options:
        third = (FLOATS,) if str(options["mask"]).startswith("float") else (MASK,)
    said = {"score": "additive", "keys": "handed" if options.get("keys") else "inside", **dict(facts)}
    FAMILY.add(f"bahdanau-{name}", lambda: Bahdanau(**options), (QUERY, MEMORY, *third), Expected("bahdanau", said))  # type: ignore[arg-type]


for v in VECTORS:
    _bahdanau(f"v-{v}", v=v)
_bahdanau("bias", bias=True)
_bahdanau("keys-handed-over", keys=True)
_bahdanau("keys-handed-over-einsum", keys=True, v="einsum", weigh="einsum")
for order in ("expanded", "repeated"):
    _bahdanau(order, order=order)
for softmax in ("exp", "log-exp", "moved", "keepdim"):
    _bahdanau(f"softmax-{softmax}", softmax=softmax)
for weigh in list(WEIGHINGS)[1:]:
    _bahdanau(f"weigh-{weigh}", weigh=weigh)
for mask, form in {
    "-inf": "where -inf",
    "-1e9": "where -1e9",
    "finfo-min": "where finfo.min",
    "float-added-1e9": "add -1e9",
    "float-to-bool": "where -inf",
}.items():
    _bahdanau(f"mask-{mask}", ("mask", form), mask=mask)
ADDITIVE = Expected("bahdanau", {"score": "additive"})
for transpose in (True, False):
    inputs = (QUERY, spec("memory", "source", "batch", D))
    name = f"bahdanau-time-first{'' if transpose else '-dim-0'}"
    FAMILY.add(name, lambda t=transpose: TimeFirst(t), inputs, ADDITIVE)
for location in (True, False):
    inputs = (QUERY, MEMORY, spec("past", "batch", "source"))
    name = f"bahdanau-{'location' if location else 'coverage'}"
    FAMILY.add(name, lambda lo=location: Terms(lo), inputs, ADDITIVE, outputs=("y", "weights"))
for keys in (True, False):
    inputs = (spec("token", "batch", dtype="int64"), spec("h", "batch", D), MEMORY, KEYS if keys else MASK)
    found = Expected("bahdanau", {"keys": "handed" if keys else "inside", "state": "previous"})
    FAMILY.add(f"bahdanau-step{'-keys' * keys}", lambda k=keys: Step(k), inputs, found, outputs=("logits", "h_out"))
FAMILY.add("bahdanau-all-steps", AllSteps, (spec("query", "batch", "target", D), MEMORY), ADDITIVE)
