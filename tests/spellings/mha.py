"""Multi-head attention: PyTorch's own modules and functions, and the ways people write it by hand.

Shapes: x ``(B, T, E)``, memory ``(B, S, E)``, heads H of width d, E = H · d. Attention over the positions of an image
(Non-local, SAGAN) is counted as self-attention with one head.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spellings._spelling import Expected, Family, spec

FAMILY = Family("mha")
E, H = 16, 4
K = E // H
X, MEMORY = spec("x", "batch", "target", E), spec("memory", "batch", "source", E)
MASK = spec("mask", "batch", "target", dtype="bool")
LOW = torch.finfo(torch.float32).min


def _found(**facts: object) -> Expected:
    return Expected("mha", {"heads": H, "head_width": K, **facts})


class Torch(nn.Module):
    """``nn.MultiheadAttention``."""

    def __init__(self, attends: str = "self", weights: bool = False, causal: bool = False, batch_first: bool = True):
        super().__init__()
        self.attention = nn.MultiheadAttention(E, H, batch_first=batch_first)
        self.attends, self.weights, self.causal = attends, weights, causal

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        memory = other if self.attends == "cross" and other is not None else x
        hidden = None if other is None or self.attends == "cross" else ~other
        past = None
        if self.causal:
            length = x.shape[1]
            past = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
        return self.attention(
            x, memory, memory, key_padding_mask=hidden, attn_mask=past, need_weights=self.weights
        )[0]  # fmt: skip


class Sdpa(nn.Module):
    """Linear maps around ``scaled_dot_product_attention``."""

    def __init__(self, mask: str = "", groups: int = H, causal: bool = False, scale: float | None = None) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, groups * K), nn.Linear(E, groups * K)
        self.o, self.mask, self.groups, self.causal, self.scale = nn.Linear(E, E), mask, groups, causal, scale

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self.q(x).unflatten(2, (H, K)).transpose(1, 2)
        k, v = (f(x).unflatten(2, (self.groups, K)).transpose(1, 2) for f in (self.k, self.v))
        if mask is not None:
            mask = mask[:, None, None, :]
            if self.mask == "float":
                mask = torch.zeros_like(mask, dtype=x.dtype).masked_fill(~mask, float("-inf"))
        y = F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=self.causal, scale=self.scale, enable_gqa=self.groups != H
        )
        made: Tensor = self.o(y.transpose(1, 2).flatten(2))
        return made


def _by_hand(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    return {
        "div": lambda q, k: q @ k.transpose(-2, -1) / math.sqrt(K),
        "mul": lambda q, k: torch.matmul(q, k.transpose(-1, -2)) * K**-0.5,
        "query": lambda q, k: (q * K**-0.5) @ k.transpose(-2, -1),
        "query-div": lambda q, k: torch.matmul(q / math.sqrt(K), k.permute(0, 1, 3, 2)),
        "split": lambda q, k: (q * K**-0.25) @ (k * K**-0.25).transpose(-2, -1),
        "none": lambda q, k: q @ k.transpose(-2, -1),
        "computed": lambda q, k: q @ k.transpose(-2, -1) / torch.sqrt(torch.tensor(k.shape[-1], dtype=q.dtype)),
        "einsum": lambda q, k: torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(K),
        "key-first": lambda q, k: (k @ q.transpose(-2, -1)).transpose(-2, -1) * K**-0.5,
    }[name]


def _fill(low: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda e, m: e.masked_fill(~m[:, None, None, :], low)


MASKS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "-inf": (_fill(float("-inf")), "where -inf"),
    "-1e9": (_fill(-1e9), "where -1e9"),
    "finfo-min": (_fill(LOW), "where finfo.min"),
    "added": (lambda e, m: e + (1.0 - m[:, None, None, :].to(e.dtype)) * LOW, "add finfo.min"),
    "added-1e4": (lambda e, m: e + (1.0 - m[:, None, None, :].to(e.dtype)) * -10000.0, "add -1e4"),
    "where": (lambda e, m: torch.where(m[:, None, None, :], e, torch.tensor(-1e9)), "where -1e9"),
}


class ByHand(nn.Module):
    """Self-attention written out, each part in a chosen spelling."""

    def __init__(
        self, scale: str = "div", split: str = "view", mask: str = "", bias: bool = True, softmax: str = "softmax"
    ) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(E, E, bias=bias) for _ in "qkv")
        self.o, self.split, self.softmax = nn.Linear(E, E), split, softmax
        self.score, self.mask = _by_hand(scale), MASKS[mask][0] if mask else None

    def heads(self, x: Tensor) -> Tensor:
        if self.split == "batched":  # (B · H, T, d), as fairseq and older exporters have it
            return x.view(x.shape[0], -1, H, K).transpose(1, 2).reshape(x.shape[0] * H, -1, K)
        if self.split == "chunks":
            return torch.stack(x.chunk(H, -1), 1)
        return x.view(x.shape[0], x.shape[1], H, K).permute(0, 2, 1, 3)

    def weigh(self, scores: Tensor) -> Tensor:
        if self.softmax == "exp":
            powers = torch.exp(scores - scores.amax(-1, keepdim=True))
            return powers / powers.sum(-1, keepdim=True)
        return torch.softmax(scores, dim=-1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        if self.split == "batched":
            y = torch.bmm(torch.softmax(torch.bmm(q, k.transpose(1, 2)) * K**-0.5, -1), v)
            y = y.view(x.shape[0], H, -1, K)
        else:
            scores = self.score(q, k)
            y = self.weigh(scores if self.mask is None or mask is None else self.mask(scores, mask)) @ v
        made: Tensor = self.o(y.transpose(1, 2).reshape(x.shape[0], -1, E))
        return made


class Packed(nn.Module):
    """One matrix for queries, keys and values."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling, self.qkv, self.o = spelling, nn.Linear(E, 3 * E), nn.Linear(E, E)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        y = self.qkv(x)
        if self.spelling in ("unbind", "index"):  # timm
            y = y.reshape(b, t, 3, H, K).permute(2, 0, 3, 1, 4)
            q, k, v = y.unbind(0) if self.spelling == "unbind" else (y[0], y[1], y[2])
        elif self.spelling == "interleaved":  # GPT-NeoX: q, k, v side by side in each head
            q, k, v = (p.transpose(1, 2) for p in y.view(b, t, H, 3 * K).chunk(3, -1))
        else:
            parts = {
                "chunk": lambda: y.chunk(3, -1),
                "split": lambda: y.split(E, 2),
                "slice": lambda: (y[..., :E], y[..., E : 2 * E], y[..., 2 * E :]),
            }[self.spelling]()
            q, k, v = (p.view(b, t, H, K).transpose(1, 2) for p in parts)
        a = torch.softmax((q * K**-0.5) @ k.transpose(-2, -1), -1)
        made: Tensor = self.o((a @ v).transpose(1, 2).reshape(b, t, E))
        return made


class Einsummed(nn.Module):
    """The heads never leave their axis: ``bthd,bshd->bhts``."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(E, E) for _ in "qkvo")

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(2, (H, K)) for f in (self.q, self.k, self.v))
        a = torch.softmax(torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(K), -1)
        made: Tensor = self.o(torch.einsum("bhts,bshd->bthd", a, v).flatten(2))
        return made


class Cross(nn.Module):
    """Queries of one sequence over another."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(E, E) for _ in "qkvo")

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, k, v = (
            f(s).unflatten(2, (H, K)).transpose(1, 2) for f, s in ((self.q, x), (self.k, memory), (self.v, memory))
        )
        a = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(K), -1)
        made: Tensor = self.o((a @ v).transpose(1, 2).flatten(2))
        return made


class Causal(nn.Module):
    """What position t may see, made in several ways."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling, self.qkv, self.o = spelling, nn.Linear(E, 3 * E), nn.Linear(E, E)
        self.register_buffer("below", torch.tril(torch.ones(1, 1, 32, 32)))

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (p.view(b, t, H, K).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(2, 3) / math.sqrt(K)
        if self.spelling == "buffer":  # minGPT
            scores = scores.masked_fill(self.below[:, :, :t, :t] == 0, float("-inf"))
        elif self.spelling == "triu":
            scores = scores.masked_fill(torch.ones(t, t).triu(1).bool(), float("-inf"))
        elif self.spelling == "triu-added":
            scores = scores + torch.full((t, t), float("-inf")).triu(1)
        else:  # "range"
            places = torch.arange(t)
            scores = scores.masked_fill(places[None, :] > places[:, None], LOW)
        made: Tensor = self.o((torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))
        return made


class Grouped(nn.Module):
    """Grouped queries: two heads of keys and values, repeated for the query heads in several ways."""

    def __init__(self, spelling: str, groups: int = 2) -> None:
        super().__init__()
        self.spelling, self.groups = spelling, groups
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, groups * K), nn.Linear(E, groups * K)
        self.o = nn.Linear(E, E)

    def widened(self, x: Tensor) -> Tensor:
        """``(B, G, S, d)`` to ``(B, H, S, d)``."""
        b, g, s, d = x.shape
        if self.spelling == "expand":
            return x[:, :, None].expand(b, g, H // g, s, d).reshape(b, H, s, d)
        return x.repeat_interleave(H // g, 1) if self.spelling == "repeat" else x

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(2, (H, K)).transpose(1, 2)
        k, v = (self.widened(f(x).unflatten(2, (self.groups, K)).transpose(1, 2)) for f in (self.k, self.v))
        if self.spelling == "five":  # the groups have an axis of their own
            q = q.unflatten(1, (self.groups, H // self.groups))
            a = torch.softmax(q @ k[:, :, None].transpose(3, 4) / math.sqrt(K), -1)
            y = (a @ v[:, :, None]).flatten(1, 2)
        else:  # with one group, "broadcast" serves all heads
            y = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(K), -1) @ v
        made: Tensor = self.o(y.transpose(1, 2).flatten(2))
        return made


class Cached(nn.Module):
    """A step with a KV cache: the present keys and values are put behind the past ones."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(E, E) for _ in "qkvo")

    def forward(self, x: Tensor, past_k: Tensor, past_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (f(x).unflatten(2, (H, K)).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = torch.cat((past_k, k), 2), torch.cat((past_v, v), 2)
        a = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(K), -1)
        return self.o((a @ v).transpose(1, 2).flatten(2)), k, v


class Placed(nn.Module):
    """Positions inside the attention: rotary (two ways of pairing), ALiBi's slopes, T5's learned bias."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling, self.qkv, self.o = spelling, nn.Linear(E, 3 * E), nn.Linear(E, E)
        self.bias = nn.Embedding(63, H)
        self.register_buffer("rates", 10000.0 ** (-torch.arange(0, K, 2) / K))
        self.register_buffer("slopes", 2.0 ** -torch.arange(1, H + 1))

    def turned(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[2])[:, None] * self.rates
        if self.spelling == "rotary-halves":
            angles = torch.cat((angles, angles), -1)
            a, b = x.chunk(2, -1)
            return x * angles.cos() + torch.cat((-b, a), -1) * angles.sin()
        even, odd = x[..., ::2], x[..., 1::2]
        cos, sin = angles.cos(), angles.sin()
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (p.view(b, t, H, K).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        if self.spelling.startswith("rotary"):
            q, k = self.turned(q), self.turned(k)
        scores = q @ k.transpose(2, 3)
        distance = torch.arange(t)[None, :] - torch.arange(t)[:, None]
        if self.spelling == "alibi":
            scores = scores / math.sqrt(K) + distance * self.slopes[:, None, None]
        elif self.spelling == "t5":
            scores = scores + self.bias(distance + 31).permute(2, 0, 1)
        else:
            scores = scores / math.sqrt(K)
        made: Tensor = self.o((torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(2))
        return made


class Single(nn.Module):
    """One head, with projected values: no axis of heads anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(E, E) for _ in "qkv")

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.q(x) @ self.k(x).transpose(1, 2) / math.sqrt(E), -1) @ self.v(x)


class NonLocal(nn.Module):
    """Self-attention over the positions of an image (Wang 2018, embedded Gaussian)."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.theta, self.phi, self.g, self.out = (
            nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        )  # fmt: skip
        self.scale = 8**-0.5 if scaled else 1.0

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = (f(x).view(b, 8, -1) for f in (self.theta, self.phi, self.g))
        a = torch.softmax(q.transpose(1, 2) @ k * self.scale, -1)
        return x + self.out((a @ v.transpose(1, 2)).transpose(1, 2).view(b, 8, h, w))


class Latents(nn.Module):
    """A learned array reads the sequence (Perceiver)."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, 3, E))
        self.q, self.k, self.v, self.o = (nn.Linear(E, E) for _ in "qkvo")

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(self.latents).unflatten(2, (H, K)).transpose(1, 2)
        k, v = (f(x).unflatten(2, (H, K)).transpose(1, 2) for f in (self.k, self.v))
        made: Tensor = self.o((torch.softmax(q @ k.transpose(2, 3) / math.sqrt(K), -1) @ v).transpose(1, 2).flatten(2))
        return made


class Encoder(nn.Module):
    """``nn.TransformerEncoderLayer`` and ``DecoderLayer`` as PyTorch ships them."""

    def __init__(self, decoder: bool) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer if decoder else nn.TransformerEncoderLayer
        self.layer = layer(E, H, 32, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        made: Tensor = self.layer(x) if memory is None else self.layer(x, memory)
        return made


for weights in (False, True):
    said = "-weights" * weights
    FAMILY.add(f"mha-torch-self{said}", lambda w=weights: Torch("self", w), (X,), _found(attends="self", causal=False))
    FAMILY.add(f"mha-torch-cross{said}", lambda w=weights: Torch("cross", w), (X, MEMORY), _found(attends="cross"))
    FAMILY.add(f"mha-torch-padding{said}", lambda w=weights: Torch("self", w), (X, MASK), _found(attends="self"))
    FAMILY.add(f"mha-torch-causal{said}", lambda w=weights: Torch("self", w, True), (X,), _found(causal=True))
FAMILY.add("mha-torch-time-first", lambda: Torch(batch_first=False), (spec("x", "target", "batch", E),), _found())
FAMILY.add("mha-sdpa", Sdpa, (X,), _found(attends="self", causal=False))
FAMILY.add("mha-sdpa-bool", lambda: Sdpa("bool"), (X, MASK), _found(attends="self"))
FAMILY.add("mha-sdpa-float", lambda: Sdpa("float"), (X, MASK), _found(attends="self"))
FAMILY.add("mha-sdpa-causal", lambda: Sdpa(causal=True), (X,), _found(causal=True))
FAMILY.add("mha-sdpa-scale", lambda: Sdpa(scale=1.0), (X,), _found())
FAMILY.add("mha-sdpa-grouped", lambda: Sdpa(groups=2), (X,), _found(groups=2))
for scale in ("div", "mul", "query", "query-div", "split", "none", "computed", "einsum", "key-first"):
    FAMILY.add(f"mha-scale-{scale}", lambda s=scale: ByHand(s), (X,), _found(attends="self"))
for mask, (_, form) in MASKS.items():
    FAMILY.add(f"mha-mask-{mask}", lambda m=mask: ByHand(mask=m), (X, MASK), _found(mask=form))
FAMILY.add("mha-batched", lambda: ByHand(split="batched"), (X,), _found())
FAMILY.add("mha-chunked-heads", lambda: ByHand(split="chunks"), (X,), _found())
FAMILY.add("mha-no-bias", lambda: ByHand(bias=False), (X,), _found())
FAMILY.add("mha-exp", lambda: ByHand(softmax="exp"), (X,), _found())
for way in ("unbind", "index", "chunk", "split", "slice", "interleaved"):
    FAMILY.add(f"mha-packed-{way}", lambda w=way: Packed(w), (X,), _found(attends="self"))
FAMILY.add("mha-einsum", Einsummed, (X,), _found(attends="self"))
FAMILY.add("mha-cross", Cross, (X, MEMORY), _found(attends="cross"))
for way in ("buffer", "triu", "triu-added", "range"):
    FAMILY.add(f"mha-causal-{way}", lambda w=way: Causal(w), (X,), _found(causal=True))
for way in ("repeat", "expand", "five"):
    FAMILY.add(f"mha-grouped-{way}", lambda w=way: Grouped(w), (X,), _found(groups=2))
FAMILY.add("mha-multi-query", lambda: Grouped("broadcast", 1), (X,), _found(groups=1))
PAST = tuple(spec(f"past_{n}", "batch", H, "past", K) for n in "kv")
FAMILY.add("mha-cached", Cached, (X, *PAST), _found(), outputs=("y", "k", "v"))
for way in ("rotary-halves", "rotary-pairs", "alibi", "t5"):
    FAMILY.add(f"mha-{way}", lambda w=way: Placed(w), (X,), _found(attends="self"))
FAMILY.add("mha-one-head", Single, (X,), Expected("mha", {"heads": 1, "head_width": E}))
IMAGE = (spec("x", "batch", 3, 8, 6),)
for scaled in (True, False):
    found = Expected("mha", {"heads": 1, "head_width": 8, "attends": "self"})
    FAMILY.add(f"mha-non-local{'-scaled' * scaled}", lambda s=scaled: NonLocal(s), IMAGE, found)
FAMILY.add("mha-latents", Latents, (X,), _found(attends="cross"))
FAMILY.add("mha-encoder-layer", lambda: Encoder(False), (X,), _found(attends="self"))
FAMILY.add("mha-decoder-layer", lambda: Encoder(True), (X, MEMORY), _found(attends="self"), _found(attends="cross"))
