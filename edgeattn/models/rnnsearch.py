"""RNNsearch, Bahdanau's encoder-decoder: it searches the source for every word it writes. Batch first throughout.

    encoder   →h_j = GRU(E_x x_j, →h_{j−1})                    x (B, S), h (B, S, 2n), from the first word to the last
              ←h_j = GRU(E_x x_j, ←h_{j+1})                    from the last word of the row to the first
              h_j = [→h_j; ←h_j],  s_0 = tanh(W_s ←h_1)        s (B, n), W_s (n, n)
    step      c, α = attention(s_{i−1}, h, mask)               see the card of ``bahdanau``; c (B, 2n)
              z, r = σ(W [E y_{i−1}; c] + U s_{i−1})           E y (B, m), W (2n, m + 2n), U (2n, n)
              s̃ = tanh(W_s̃ [E y_{i−1}; c] + U_s̃ (r ⊙ s_{i−1}))  W_s̃ (n, m + 2n), U_s̃ (n, n)
              s_i = (1 − z) ⊙ s_{i−1} + z ⊙ s̃
              t̃ = U_o s_{i−1} + V_o E y_{i−1} + C_o c          t̃ (B, 2l)
              t_j = max(t̃_{2j−1}, t̃_{2j}),  logits = W_o t     W_o (V, l), logits (B, V)

Source: Bahdanau, Cho, Bengio, "Neural Machine Translation by Jointly Learning to Align and Translate", ICLR 2015,
appendix A.2; n = 1000, m = 620, l = 500 (A.2.3). The readout takes s_{i−1} and not s_i, as printed in A.2.2.
Deviations: the encoder's GRUs are PyTorch's, which is ONNX's with ``linear_before_reset``: they gate U →h by r, where
the paper gates →h before U; so each direction is one GRU operator. The decoder's is the paper's. Every layer has a bias
(the appendix omits them "to increase readability"), but the alignment model, the context and U. Sources are padded at
the end and masked; the backward GRU reads each row reversed within its length, so it meets no padding before the text.
A row without valid positions has ←h_1 = 0. The first step reads the embedding of a start token. No dropout.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn import registry
from edgeattn.models import Config, Model
from edgeattn.models._translator import Translator, source, stop_at, valid_lengths


class Encoder(nn.Module):
    """Two GRUs that read the source from either end."""

    def __init__(self, vocabulary: int, embedding: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.ahead = nn.GRU(embedding, width, batch_first=True)
        self.back = nn.GRU(embedding, width, batch_first=True)
        self.start = nn.Linear(width, width)

    def forward(self, src: torch.Tensor, src_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens ``(B, S)`` int64 and mask ``(B, S)`` bool to annotations ``(B, S, 2n)`` and s_0 ``(B, n)``.

        The mask is True on a prefix of each row.
        """
        lengths = valid_lengths(src_mask).unsqueeze(1)  # (B, 1)
        place = torch.arange(src.shape[1], device=src.device).unsqueeze(0)  # (1, S)
        mirror = torch.where(place < lengths, lengths - 1 - place, place)  # (B, S), its own inverse
        ahead, _ = self.ahead(self.embed(src))
        reversed_back, _ = self.back(self.embed(src.gather(1, mirror)))
        back = reversed_back.gather(1, mirror.unsqueeze(2).expand(-1, -1, reversed_back.shape[2]))
        first = back[:, 0] * (lengths > 0).to(back.dtype)
        return torch.cat((ahead, back), 2), torch.tanh(self.start(first))


class Step(nn.Module):
    """One decoder step: attention, the paper's GRU, and the deep output with one maxout layer."""

    def __init__(self, vocabulary: int, embedding: int, width: int, maxout: int, alignment: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.attention = registry.get("blocks", "bahdanau").build(width, 2 * width, hidden=alignment)
        read = embedding + 2 * width  # [E y; c]
        self.gates_in, self.gates = nn.Linear(read, 2 * width), nn.Linear(width, 2 * width, bias=False)
        self.candidate_in, self.candidate = nn.Linear(read, width), nn.Linear(width, width, bias=False)
        self.readout = nn.Linear(width + read, 2 * maxout)
        self.output = nn.Linear(maxout, vocabulary)

    def forward(
        self, token: torch.Tensor, memory: torch.Tensor, src_mask: torch.Tensor, s: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token ``(B,)``, memory ``(B, S, 2n)``, mask ``(B, S)``, s_{i−1} ``(B, n)``.

        Returns:
            logits ``(B, V)``, the alignment ``(B, S)`` and s_i.
        """
        context, alignment = self.attention(s, memory, src_mask)
        logits, following = self.emit(token, context, s)
        return logits, alignment, following

    def emit(self, token: torch.Tensor, context: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``(B, V)`` and s_i ``(B, n)`` of token, context ``(B, 2n)`` and s_{i−1}."""
        read = torch.cat((self.embed(token), context), 1)
        z, r = torch.sigmoid(self.gates_in(read) + self.gates(s)).chunk(2, 1)
        candidate = torch.tanh(self.candidate_in(read) + self.candidate(r * s))
        following = (1 - z) * s + z * candidate
        t = self.readout(torch.cat((s, read), 1)).unflatten(1, (-1, 2)).amax(2)  # (B, l)
        return self.output(t), following


class RNNsearch(Translator):
    """Encoder and decoder step, and what the decode loop has to know about them.

    Args:
        source_vocabulary: number of source tokens. target_vocabulary: V.
        embedding: m, width of both embeddings. width: n. maxout: l.
        alignment: width of the alignment model's tanh layer; n when not given.
        start: first token fed to the decoder. end: token that ends an output. max_steps: bound on decoder steps.
        max_source: longest source that ``cases`` draws; the graphs take any. seed: of the initial weights.
    """

    encoder: Encoder
    step: Step

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        embedding: int,
        width: int,
        maxout: int,
        alignment: int | None = None,
        start: int = 0,
        end: int = 1,
        max_steps: int = 32,
        max_source: int = 32,
        seed: int = 0,
    ) -> None:
        vocabularies = (source_vocabulary, target_vocabulary)
        stop = stop_at(start, end, max_steps)
        super().__init__(vocabularies, stop, max_source, 2 * width, {"s": (width,)}, ("s",))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = Encoder(source_vocabulary, embedding, width)
            self.step = Step(target_vocabulary, embedding, width, maxout, alignment or width)

    def forward(self, src: torch.Tensor, src_mask: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Teacher-forced logits ``(B, T, V)``, for training; the keys are projected once instead of T times.

        Args:
            src: ``(B, S)`` int64. src_mask: ``(B, S)`` bool.
            tokens: ``(B, T)`` int64 fed to the decoder, the start token first.
        """
        memory, s = self.encoder(src, src_mask)
        attention = self.step.attention
        keys, logits = attention.project(memory), []
        for token in tokens.unbind(1):
            context, _ = attention.attend(s, keys, memory, src_mask)
            step_logits, s = self.step.emit(token, context, s)
            logits.append(step_logits)
        return torch.stack(logits, 1)


MODEL = Model(
    name="rnnsearch",
    build=RNNsearch,
    source=source,
    configs={
        "bahdanau_numbers": Config(
            {
                "source_vocabulary": 31,
                "target_vocabulary": 12,
                "embedding": 32,
                "width": 96,
                "maxout": 48,
                "start": 0,
                "end": 1,
                "max_steps": 8,
                "max_source": 73,
            },
            weights="bahdanau_numbers",
            task="numbers",
            training={"steps": 800, "batch": 64},
            about="numbers in English words to digits, character by character, Bahdanau attention",
        ),
        "bahdanau_words": Config(
            {
                "source_vocabulary": 15,
                "target_vocabulary": 31,
                "embedding": 32,
                "width": 96,
                "maxout": 48,
                "start": 0,
                "end": 1,
                "max_steps": 75,
                "max_source": 7,
            },
            weights="bahdanau_words",
            task="words",
            about="numbers in digits to English words, character by character, Bahdanau attention",
        ),
        "bahdanau_1000": Config(
            {
                "source_vocabulary": 30000,
                "target_vocabulary": 30000,
                "embedding": 620,
                "width": 1000,
                "maxout": 500,
                "start": 1,
                "end": 2,
                "max_steps": 64,
                "max_source": 50,
            },
            about="RNNsearch-50 in the paper's size, 30,000 words a side, untrained: for latency",
        ),
    },
    paper="Bahdanau et al., NMT by Jointly Learning to Align and Translate, ICLR 2015, appendix A.2",
)
