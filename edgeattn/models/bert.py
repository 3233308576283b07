"""BERT: a bidirectional encoder, pooled at its first token or read at learned slots.

    X = N(E[src] + p(0 … S−1) + E_seg[segments])    src, segments (B, S), X (B, S, D), src_mask (B, S) True where valid
    X ← L post-norm layers over the valid positions  see the cards of ``mha``
    pooled = tanh(W_p x_1 + b_p)                      hidden = X, x_1: the first token, [CLS]; pooled (B, D)

With slots, K trained vectors stand before the text as [CLS] and [MASK] tokens do, and each is filled at once:

    X = N([slots; E[src] + p(0 … S−1)])               slots (K, D), X (B, K + S, D)
    logits = W_o x_k + b_o                            k ≤ K; (B, K, V)

``segments`` is an input where the model has segments, because only the caller knows where a second sentence begins;
one sentence is all zeros. A model without segments has no such input.

Source: Devlin, Chang, Lee, Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding", NAACL 2019, section 3 and appendix A.2.
Deviations: no dropout. Padding enters as zeros, so that a row without any valid token does not depend on it. Slots are
read by one linear map, where BERT's masked tokens pass another layer first; positions may be sinusoidal or rotary
(which count the slots first).
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
from edgeattn.models._transformer import Layer
from edgeattn.program import Case, TensorSpec


class Bert(nn.Module):
    """The encoder.

    Args:
        vocabulary: number of tokens. longest: positions of a text.
        width: D. layers: L. heads: H. hidden: of the feed-forward networks; 4 D when not given.
        segments: kinds of segment; 0 for none.
        slots: K; 0 pools instead. labels: V, what a slot can hold.
        positions: ``learned``, ``sinusoidal`` or ``rotary``.
        eps: of the LayerNorms. seed: of the initial weights.
    """

    def __init__(
        self,
        vocabulary: int,
        longest: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int | None = None,
        segments: int = 0,
        slots: int = 0,
        labels: int = 0,
        positions: str = "learned",
        eps: float = 1e-12,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.vocabulary, self.longest, self.segment_count = vocabulary, longest, segments
        options: dict[str, Any] = {"post_norm": True, "eps": eps, "rotary": positions == "rotary"}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(vocabulary, width)
            self.positions = positions_of(positions, longest, width)
            self.segments = nn.Embedding(segments, width) if segments else None
            self.slots = nn.Embedding(slots, width) if slots else None
            self.norm = nn.LayerNorm(width, eps=eps)
            self.layers = nn.ModuleList(Layer(width, heads, hidden or 4 * width, **options) for _ in range(layers))
            self.output = nn.Linear(width, labels if slots else width)
            initialise(self)

    def forward(
        self, src: torch.Tensor, src_mask: torch.Tensor, segments: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """``(B, S)`` tokens, mask and, where the model has them, segments.

        Returns:
            logits ``(B, K, V)`` of the slots, or the hidden states ``(B, S, D)`` and pooled ``(B, D)``.
        """
        x = self._embedded(src, segments)
        if self.slots is None:
            x = self._through(self.norm(x), src_mask)
            return x, torch.tanh(self.output(x[:, 0]))
        count = self.slots.num_embeddings
        filled = self.slots.weight.unsqueeze(0).expand(src.shape[0], -1, -1)
        # ones_like of the mask's own columns would need S ≥ K
        valid = torch.ones_like(filled[:, :, 0], dtype=torch.bool)
        x = self._through(self.norm(torch.cat((filled, x), 1)), torch.cat((valid, src_mask), 1))
        logits: torch.Tensor = self.output(x[:, :count])
        return logits

    def _embedded(self, src: torch.Tensor, segments: torch.Tensor | None) -> torch.Tensor:
        x: torch.Tensor = self.embed(src)
        if self.positions is not None:
            x = x + self.positions(torch.arange(src.shape[1], device=src.device))
        if self.segments is not None:
            x = x + self.segments(segments)
        return x

    def _through(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x.masked_fill(~mask.unsqueeze(2), 0.0)
        for layer in self.layers:
            x = layer(x, mask)
        return x


def initialise(net: Bert) -> None:
    """BERT's: normal with deviation 0.02, biases at zero."""
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, 0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def source(module: Bert) -> Source:
    """One graph, ``main``: ``src``, ``src_mask`` and ``segments`` in, ``logits`` or ``hidden`` and ``pooled`` out."""
    shape = ("batch", "source")
    inputs = [TensorSpec("src", "int64", shape), TensorSpec("src_mask", "bool", shape)]
    if module.segments is not None:
        inputs.append(TensorSpec("segments", "int64", shape))
    outputs = ("hidden", "pooled") if module.slots is None else ("logits",)
    return Source({"main": GraphSource(module, tuple(inputs), outputs)}, cases=lambda seed: cases(module, seed))


def cases(module: Bert, seed: int) -> Sequence[Case]:
    """Seeded texts: plain at two sizes, length 1 and maximum, ragged, one row fully masked."""
    rng = np.random.default_rng(seed)
    lengths = text_lengths(min(module.longest, 11), module.longest)
    return [_case(module, rng, name, np.array(rows)) for name, rows in lengths.items()]


def _case(
    module: Bert, rng: np.random.Generator, name: str, lengths: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> Case:
    shape = len(lengths), int(lengths.max())
    feeds = {"src": rng.integers(0, module.vocabulary, shape), "src_mask": np.arange(shape[1]) < lengths[:, None]}
    if module.segments is not None:
        feeds["segments"] = rng.integers(0, module.segment_count, shape)
    return Case(name, feeds)


MODEL = Model(
    name="bert",
    build=Bert,
    source=source,
    configs={
        "bert_numbers": Config(
            {
                "vocabulary": 31,
                "longest": 73,
                "width": 96,
                "layers": 3,
                "heads": 4,
                "slots": 7,
                "labels": 12,
                "positions": "rotary",
            },
            weights="bert_numbers",
            task="numbers",
            training={"steps": 1200, "batch": 64, "peak_rate": 2e-3},
            about="numbers in words to digits, all at once: a slot for each digit and the end",
        ),
        "bert_base": Config(
            {"vocabulary": 30522, "longest": 512, "width": 768, "layers": 12, "heads": 12, "segments": 2},
            about="BERT base (110M) with pooler, untrained: for latency",
        ),
    },
    paper="Devlin et al., BERT, NAACL 2019, section 3 and appendix A.2",
)
