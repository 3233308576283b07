"""Luong's LSTM encoder-decoder with global attention and input feeding, batch first throughout.

    encoder   H = LSTM(E_src[src])                          src (B, S), H (B, S, D), the top layer's states
              h₀ = last valid state of each layer           h₀ (B, L, D);  c₀ = W_b h₀ + b_b, layer by layer
    step      h_t, c_t = LSTM([E_tgt[y_{t−1}]; h̃_{t−1}])    input feeding: h̃ (B, D) starts at zero
              c, α = attention(h_t, H, mask)                see the card of ``luong``
              h̃_t = tanh(W_c [c; h_t])                      W_c (D, 2D)
              logits = W_s h̃_t + b_s                        (B, V)

Source: Luong, Pham, Manning, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015,
sections 3 (equations 5 and 6), 3.1 and 3.3 (input feeding).
Deviations: sources are padded at the end and masked. A recurrent layer runs on into the padding, so the state handed
to the decoder is gathered at the last valid position, from every layer's outputs; no layer puts out its cell states,
so c₀ is a learned linear map of h₀ where the paper copies the cell. A row without valid positions hands over zeros.
No dropout, and the source is not reversed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from edgeattn import registry
from edgeattn.models import Config, GraphSource, Model, Source
from edgeattn.program import Case, Stop, TensorSpec, Wiring


class Encoder(nn.Module):
    """Stacked one-layer LSTMs, so that every layer's states can be gathered."""

    def __init__(self, vocabulary: int, embedding: int, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        sizes = [embedding] + [width] * (layers - 1)
        self.layers = nn.ModuleList(nn.LSTM(size, width, batch_first=True) for size in sizes)
        self.bridges = nn.ModuleList(nn.Linear(width, width) for _ in sizes)

    def forward(self, src: torch.Tensor, src_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens ``(B, S)`` int64 and mask ``(B, S)`` bool to memory ``(B, S, D)`` and h, c ``(B, L, D)``.

        The mask is True on a prefix of each row.
        """
        lengths = src_mask.long().sum(1)  # (B,)
        last = (lengths - 1).clamp(min=0)
        states, memory = [], self.embed(src)
        for layer in self.layers:
            memory, _ = layer(memory)
            index = last.view(-1, 1, 1).expand(-1, 1, memory.shape[2])
            states.append(memory.gather(1, index).squeeze(1))
        present = (lengths > 0).to(memory.dtype).unsqueeze(1)  # (B, 1)
        h = torch.stack([state * present for state in states], 1)
        c = torch.stack([bridge(state) * present for bridge, state in zip(self.bridges, states, strict=True)], 1)
        return memory, h, c


class Step(nn.Module):
    """One decoder step: LSTM cells, attention, attentional state, logits."""

    def __init__(self, vocabulary: int, embedding: int, width: int, layers: int, score: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        sizes = [embedding + width] + [width] * (layers - 1)
        self.cells = nn.ModuleList(nn.LSTMCell(size, width) for size in sizes)
        self.attention = registry.get("blocks", "luong").build(width, width, score=score)
        self.combine = nn.Linear(2 * width, width, bias=False)
        self.output = nn.Linear(width, vocabulary)

    def forward(
        self,
        token: torch.Tensor,
        h: torch.Tensor,
        c: torch.Tensor,
        feed: torch.Tensor,
        memory: torch.Tensor,
        src_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Token ``(B,)``, h and c ``(B, L, D)``, feed ``(B, D)``, memory ``(B, S, D)``, mask ``(B, S)``.

        Returns:
            logits ``(B, V)``, the next h, c and feed, and the alignment ``(B, S)``.
        """
        h, c = self.recur(token, h, c, feed)
        context, alignment = self.attention(h[:, -1], memory, src_mask)
        logits, feed = self.emit(context, h)
        return logits, h, c, feed, alignment

    def recur(
        self, token: torch.Tensor, h: torch.Tensor, c: torch.Tensor, feed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next h and c of every layer, ``(B, L, D)``."""
        x = torch.cat((self.embed(token), feed), 1)
        states = []
        for index, cell in enumerate(self.cells):
            states.append(cell(x, (h[:, index], c[:, index])))
            x = states[-1][0]
        return torch.stack([s[0] for s in states], 1), torch.stack([s[1] for s in states], 1)

    def emit(self, context: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``(B, V)`` and the attentional state h̃ ``(B, D)``."""
        feed = torch.tanh(self.combine(torch.cat((context, h[:, -1]), 1)))
        return self.output(feed), feed


class Seq2Seq(nn.Module):
    """Encoder and decoder step, and what the decode loop has to know about them.

    Args:
        source_vocabulary: number of source tokens. target_vocabulary: V.
        embedding: width of both embeddings. width: D. layers: L. score: Luong's ``general`` or ``dot``.
        start: first token fed to the decoder. end: token that ends an output. max_steps: bound on decoder steps.
        max_source: longest source that ``cases`` draws; the graphs take any. seed: of the initial weights.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        embedding: int,
        width: int,
        layers: int = 1,
        score: str = "general",
        start: int = 0,
        end: int = 1,
        max_steps: int = 32,
        max_source: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = Encoder(source_vocabulary, embedding, width, layers)
            self.step = Step(target_vocabulary, embedding, width, layers, score)
        self.width, self.layers, self.max_source = width, layers, max_source
        self.vocabularies = (source_vocabulary, target_vocabulary)
        self.stop = Stop("step.token", "step.logits", start, end, max_steps)

    def forward(self, src: torch.Tensor, src_mask: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Teacher-forced logits ``(B, T, V)``, for training; the keys are projected once instead of T times.

        Args:
            src: ``(B, S)`` int64. src_mask: ``(B, S)`` bool.
            tokens: ``(B, T)`` int64 fed to the decoder, the start token first.
        """
        memory, h, c = self.encoder(src, src_mask)
        attention = self.step.attention
        keys = attention.project(memory)
        feed, logits = torch.zeros_like(h[:, 0]), []
        for token in tokens.unbind(1):
            h, c = self.step.recur(token, h, c, feed)
            context, _ = attention.attend(h[:, -1], keys, memory, src_mask)
            step_logits, feed = self.step.emit(context, h)
            logits.append(step_logits)
        return torch.stack(logits, 1)


def source(module: Seq2Seq) -> Source:
    """Two graphs, ``encoder`` and ``step``; the memory is handed over once, the states after every step."""
    states = ("batch", module.layers, module.width)
    mask = TensorSpec("src_mask", "bool", ("batch", "source"))
    encoder = GraphSource(module.encoder, (TensorSpec("src", "int64", ("batch", "source")), mask), ("memory", "h", "c"))
    inputs = (
        TensorSpec("token", "int64", ("batch",)),
        TensorSpec("h", "float32", states),
        TensorSpec("c", "float32", states),
        TensorSpec("feed", "float32", ("batch", module.width)),
        TensorSpec("memory", "float32", ("batch", "source", module.width)),
        mask,
    )
    step = GraphSource(module.step, inputs, ("logits", "h_out", "c_out", "feed_out", "alignment"))
    wiring = Wiring(
        feeds={"step.memory": "encoder.memory", "step.h": "encoder.h", "step.c": "encoder.c"},
        state={"step.h": "step.h_out", "step.c": "step.c_out", "step.feed": "step.feed_out"},
        stop=module.stop,
    )
    return Source({"encoder": encoder, "step": step}, wiring, lambda seed: cases(module, seed))


def cases(module: Seq2Seq, seed: int) -> Sequence[Case]:
    """Seeded sources and forced tokens: plain, length 1 and maximum, ragged, fully masked, one repeated token."""
    rng = np.random.default_rng(seed)
    longest = module.max_source
    lengths = {
        "normal-b1": [longest // 2],
        "normal-b2": [longest // 2, longest // 2],
        "length-1": [1, 1],
        "length-max": [longest, longest],
        "ragged": [longest // 2, 1, longest // 4 + 1],
        "masked-row": [longest // 2, 0],
        "repeated-token": [longest // 2, longest // 2],
    }
    return [_case(module, rng, name, np.array(rows)) for name, rows in lengths.items()]


def _case(
    module: Seq2Seq, rng: np.random.Generator, name: str, lengths: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> Case:
    batch, longest, steps = len(lengths), max(int(lengths.max()), 1), min(module.stop.max_steps, 6)
    src = rng.integers(0, module.vocabularies[0], (batch, longest))
    if name == "repeated-token":
        src[:] = src[0, 0]
    tokens = rng.integers(0, module.vocabularies[1], (batch, steps))
    tokens[:, 0] = module.stop.start
    mask = np.arange(longest) < lengths[:, None]
    return Case(name, {"src": src, "src_mask": mask}, tokens)


MODEL = Model(
    name="seq2seq",
    build=Seq2Seq,
    source=source,
    configs={
        "luong_dates": Config(
            {
                "source_vocabulary": 44,
                "target_vocabulary": 13,
                "embedding": 32,
                "width": 128,
                "start": 0,
                "end": 1,
                "max_steps": 12,
                "max_source": 40,
            },
            weights="luong_dates",
            task="dates",
            about="human-written dates to ISO 8601, character by character, Luong 'general'",
        ),
        "luong_2x512": Config(
            {
                "source_vocabulary": 8000,
                "target_vocabulary": 8000,
                "embedding": 256,
                "width": 512,
                "layers": 2,
                "start": 1,
                "end": 2,
                "max_steps": 64,
                "max_source": 50,
            },
            about="2×LSTM-512, vocabulary 8,000, untrained: for latency",
        ),
    },
    paper="Luong et al., Effective Approaches to Attention-based NMT, EMNLP 2015, sections 3-3.3",
)
