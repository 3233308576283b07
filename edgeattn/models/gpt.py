"""A GPT: a decoder that reads a prompt once and then writes token by token, over cached keys and values.

    prefill   X = E[tokens] + p(0 … T−1)          tokens (B, T), mask (B, T) True on a prefix of each row; X (B, T, D)
              X ← L pre-norm layers, causal        each layer keeps its keys and values (B, G, T, d), d = D / H
              logits = W_v N(x_last)              x_last: the row's last valid position; (B, V)
    step      x = E[token] + p(n)                 n: how many valid positions the row has had; (B, 1, D)
              x ← the same layers                 over past (B, G, P, d) and itself: present (B, G, P + 1, d)
              logits = W_v N(x)                   (B, V)

Rows of a batch may differ in length: what was padding in the prompt stays in the cache and is never ``visible`` (B, P),
and it counts as no position, so a row is continued as if it were alone. Prefill's logits give the first token.

Source: Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.3; Radford et al.,
"Improving Language Understanding by Generative Pre-Training", 2018, section 3.1. Sinusoids: Vaswani et al. 2017,
section 3.5. Grouped queries and rotary positions: see the card of ``mha``.
Deviations: no dropout. A row without any valid position starts from zeros and attends to nothing, so its first logits
do not depend on its padding. ``head="tied"`` is GPT-2's, W_v = E; ``head="own"`` trains another W_v without a bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeattn.cases import text_lengths
from edgeattn.models import Config, GraphSource, Model, Source
from edgeattn.models._positions import positions_of
from edgeattn.models._transformer import Cache, Layer
from edgeattn.program import Case, Stop, TensorSpec, Wiring

STEPS = 6  # forced in every case


class Gpt(nn.Module):
    """The decoder, and what the decode loop has to know about it.

    Args:
        vocabulary: V. longest: positions of prompt and continuation together.
        width: D. layers: L. heads: H. hidden: of the feed-forward networks; 4 D when not given.
        kv_heads: G, heads of keys and values; H when not given.
        positions: ``learned``, ``sinusoidal`` or ``rotary``.
        tied: the output map is the embedding.
        approximate: of the GELU; ``tanh`` is GPT-2's.
        end: token that ends a text. max_steps: bound on the tokens of a continuation. seed: of the initial weights.
    """

    def __init__(
        self,
        vocabulary: int,
        longest: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int | None = None,
        kv_heads: int | None = None,
        positions: str = "learned",
        tied: bool = True,
        approximate: str = "tanh",
        end: int = 0,
        max_steps: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.vocabulary, self.longest = vocabulary, longest
        self.cache = (heads if kv_heads is None else kv_heads, width // heads)  # G, d
        # Decoding starts with what the prompt predicts, so no token starts it.
        self.stop = Stop("step.token", "step.logits", end, end, max_steps, first="prefill.logits")
        attention: dict[str, Any] = {"kv_heads": kv_heads, "causal": True, "rotary": positions == "rotary"}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(vocabulary, width)
            self.positions = positions_of(positions, longest, width)
            self.layers = nn.ModuleList(
                Layer(width, heads, hidden or 4 * width, approximate=approximate, **attention) for _ in range(layers)
            )
            self.norm = nn.LayerNorm(width)
            self.head = None if tied else nn.Linear(width, vocabulary, bias=False)
            initialise(self)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, T, V)`` of what follows each position, for training, of ``(B, T)`` tokens and mask."""
        return self.predict(self.read(tokens, mask)[0])

    def read(self, tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, list[Cache]]:
        """Whole sequences ``(B, T)`` to hidden states ``(B, T, D)`` and each layer's keys and values."""
        order = torch.arange(tokens.shape[1], device=tokens.device)
        visible = mask.unsqueeze(1).unsqueeze(2) & (order <= order.unsqueeze(1))  # (B, 1, T, T)
        positions = order.unsqueeze(0).expand_as(tokens)
        x = self._embedded(tokens, positions).masked_fill(~mask.unsqueeze(2), 0.0)
        return self._through(x, positions, visible, [None] * len(self.layers))

    def go_on(
        self, token: torch.Tensor, visible: torch.Tensor, past: Sequence[Cache]
    ) -> tuple[torch.Tensor, list[Cache], torch.Tensor]:
        """One more token ``(B,)`` after ``past``: hidden states ``(B, D)``, the caches, and what of them is visible."""
        positions = visible.sum(1, keepdim=True)  # (B, 1)
        visible = torch.cat((visible, torch.ones_like(visible[:, :1])), 1)  # (B, P + 1)
        x = self._embedded(token.unsqueeze(1), positions)
        x, caches = self._through(x, positions, visible.unsqueeze(1).unsqueeze(2), past)
        return x.squeeze(1), caches, visible

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """Hidden states ``(…, D)`` to logits ``(…, V)``."""
        weight = self.embed.weight if self.head is None else self.head.weight
        return nn.functional.linear(self.norm(x), weight)

    def _embedded(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.embed(tokens)
        return x if self.positions is None else x + self.positions(positions)

    def _through(
        self, x: torch.Tensor, positions: torch.Tensor, visible: torch.Tensor, past: Sequence[Cache | None]
    ) -> tuple[torch.Tensor, list[Cache]]:
        caches = []
        for layer, before in zip(self.layers, past, strict=True):
            assert isinstance(layer, Layer)
            x, cache = layer.cached(x, positions, visible, before)
            caches.append(cache)
        return x, caches


class Prefill(nn.Module):
    """The graph that reads the prompt."""

    def __init__(self, gpt: Gpt) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``(B, T)`` tokens and mask to logits ``(B, V)``, keys and values ``(B, G, T, d)`` a layer, visible."""
        x, caches = self.gpt.read(tokens, mask)
        last = (mask.sum(1) - 1).clamp(min=0)  # (B,)
        index = last.view(-1, 1, 1).expand(-1, 1, x.shape[2])
        return self.gpt.predict(x.gather(1, index).squeeze(1)), *_flat(caches), mask.clone()


class Step(nn.Module):
    """The graph that writes one token more."""

    def __init__(self, gpt: Gpt) -> None:
        super().__init__()
        self.gpt = gpt

    def forward(self, token: torch.Tensor, visible: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Token ``(B,)``, visible ``(B, P)``, keys and values ``(B, G, P, d)`` a layer to the same with one more."""
        x, caches, visible = self.gpt.go_on(token, visible, list(zip(past[::2], past[1::2], strict=True)))
        return self.gpt.predict(x), *_flat(caches), visible


def _flat(caches: Sequence[Cache]) -> list[torch.Tensor]:
    return [tensor for cache in caches for tensor in cache]


def initialise(net: Gpt) -> None:
    """GPT-2's: normal with deviation 0.02, and maps into the residual sums smaller by √(2L)."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, 0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for name, weight in net.named_parameters():
        if name.endswith(("attention.output.weight", "feed_forward.narrow.weight")):
            nn.init.normal_(weight, 0.0, 0.02 * (2 * len(net.layers)) ** -0.5)


def source(module: Gpt) -> Source:
    """Two graphs, ``prefill`` and ``step``; the caches are handed over once, then go round."""
    names = [f"{part}_{i}" for i in range(len(module.layers)) for part in ("key", "value")]
    groups, width = module.cache
    present = [f"present_{name}" for name in names]
    prompt = (TensorSpec("tokens", "int64", ("batch", "prompt")), TensorSpec("mask", "bool", ("batch", "prompt")))
    past = [TensorSpec(f"past_{name}", "float32", ("batch", groups, "past", width)) for name in names]
    step = (TensorSpec("token", "int64", ("batch",)), TensorSpec("visible", "bool", ("batch", "past")), *past)
    graphs = {
        "prefill": GraphSource(Prefill(module), prompt, ("logits", *present, "visible")),
        "step": GraphSource(Step(module), step, ("logits", *present, "visible_out")),
    }
    grows = {f"step.past_{name}": f"present_{name}" for name in names}
    wiring = Wiring(
        feeds={"step.visible": "prefill.visible", **{to: f"prefill.{name}" for to, name in grows.items()}},
        state={"step.visible": "step.visible_out", **{to: f"step.{name}" for to, name in grows.items()}},
        stop=module.stop,
    )
    return Source(graphs, wiring, lambda seed: cases(module, seed))


def cases(module: Gpt, seed: int) -> Sequence[Case]:
    """Seeded prompts and forced tokens: plain at two sizes, length 1 and maximum, ragged, one row without a prompt."""
    rng = np.random.default_rng(seed)
    longest = module.longest - STEPS
    lengths = text_lengths(min(longest, 11), longest)
    return [_case(module, rng, name, np.array(rows)) for name, rows in lengths.items()]


def _case(
    module: Gpt, rng: np.random.Generator, name: str, lengths: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> Case:
    batch, longest = len(lengths), int(lengths.max())
    tokens = rng.integers(0, module.vocabulary, (batch, longest))
    forced = rng.integers(0, module.vocabulary, (batch, STEPS))
    return Case(name, {"tokens": tokens, "mask": np.arange(longest) < lengths[:, None]}, forced)


MODEL = Model(
    name="gpt",
    build=Gpt,
    source=source,
    configs={
        "gpt_text": Config(
            {
                "vocabulary": 55,
                "longest": 128,
                "width": 96,
                "layers": 4,
                "heads": 4,
                "kv_heads": 2,
                "positions": "rotary",
                "max_steps": 64,
            },
            weights="gpt_text",
            task="text",
            about="English prose character by character, rotary positions, grouped queries",
        ),
        "gpt2_small": Config(
            {"vocabulary": 50257, "longest": 1024, "width": 768, "layers": 12, "heads": 12, "end": 50256},
            about="GPT-2 small (124M), untrained: for latency",
        ),
    },
    paper="Radford et al., Language Models are Unsupervised Multitask Learners, 2019, section 2.3",
)
