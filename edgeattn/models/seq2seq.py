"""Luong's LSTM encoder-decoder with global or local attention and input feeding, batch first throughout.

    encoder   H = LSTM(E_src[src])                          src (B, S), H (B, S, D), the top layer's states
              h₀ = last valid state of each layer           h₀ (B, L, D);  c₀ = W_b h₀ + b_b, layer by layer
    step      h_t, c_t = LSTM([E_tgt[y_{t−1}]; h̃_{t−1}])    input feeding: h̃ (B, D) starts at zero
              c, α = attention(h_t, H, mask)                see the cards of ``luong`` and ``luong_local``
              h̃_t = tanh(W_c [c; h_t])                      W_c (D, 2D)
              logits = W_s h̃_t + b_s                        (B, V)

Without input feeding the LSTM reads E_tgt[y_{t−1}] alone and h̃ is no state.

Source: Luong, Pham, Manning, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015,
sections 3 (equations 5 and 6), 3.1, 3.2 (local-p) and 3.3 (input feeding).
Deviations: sources are padded at the end and masked. A recurrent layer runs on into the padding, so the state handed
to the decoder is gathered at the last valid position, from every layer's outputs; no layer puts out its cell states,
so c₀ is a learned linear map of h₀ where the paper copies the cell. A row without valid positions hands over zeros.
No dropout, and the source is not reversed. Local attention's window ends in a step, where the least rounding decides:
``source`` draws its cases so that no position lies within 0.01 of an edge.
"""

from __future__ import annotations

import torch
from torch import nn

from edgeattn import registry
from edgeattn.models import Config, Model
from edgeattn.models._translator import Translator, source, stop_at, valid_lengths
from edgeattn.program import Case

_EDGE = 0.01  # positions: a thousand times FP32's rounding of S·σ(·), and still one case in two is fair at once


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
        lengths = valid_lengths(src_mask)
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

    def __init__(
        self,
        vocabulary: int,
        embedding: int,
        width: int,
        layers: int,
        score: str,
        window: float | None,
        feeding: bool,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        sizes = [embedding + width * feeding] + [width] * (layers - 1)
        self.cells = nn.ModuleList(nn.LSTMCell(size, width) for size in sizes)
        kind, options = ("luong", {}) if window is None else ("luong_local", {"window": window})
        self.attention = registry.get("blocks", kind).build(width, width, score=score, **options)
        self.combine = nn.Linear(2 * width, width, bias=False)
        self.output = nn.Linear(width, vocabulary)

    def forward(
        self,
        token: torch.Tensor,
        memory: torch.Tensor,
        src_mask: torch.Tensor,
        h: torch.Tensor,
        c: torch.Tensor,
        feed: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Token ``(B,)``, memory ``(B, S, D)``, mask ``(B, S)``, h and c ``(B, L, D)``, feed ``(B, D)`` if it is fed.

        Returns:
            logits ``(B, V)``, the alignment ``(B, S)``, and the next h, c and (if it is fed) feed.
        """
        h, c = self.recur(token, h, c, feed)
        context, alignment = self.attention(h[:, -1], memory, src_mask)
        logits, following = self.emit(context, h)
        return (logits, alignment, h, c) if feed is None else (logits, alignment, h, c, following)

    def recur(
        self, token: torch.Tensor, h: torch.Tensor, c: torch.Tensor, feed: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The next h and c of every layer, ``(B, L, D)``."""
        x = self.embed(token) if feed is None else torch.cat((self.embed(token), feed), 1)
        states = []
        for index, cell in enumerate(self.cells):
            states.append(cell(x, (h[:, index], c[:, index])))
            x = states[-1][0]
        return torch.stack([s[0] for s in states], 1), torch.stack([s[1] for s in states], 1)

    def emit(self, context: torch.Tensor, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``(B, V)`` and the attentional state h̃ ``(B, D)``."""
        feed = torch.tanh(self.combine(torch.cat((context, h[:, -1]), 1)))
        return self.output(feed), feed


class Seq2Seq(Translator):
    """Encoder and decoder step, and what the decode loop has to know about them.

    Args:
        source_vocabulary: number of source tokens. target_vocabulary: V.
        embedding: width of both embeddings. width: D. layers: L. score: Luong's ``general``, ``dot`` or ``concat``.
        window: radius of local-p attention; None attends globally. feeding: whether h̃ is fed into the next step.
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
        layers: int = 1,
        score: str = "general",
        window: float | None = None,
        feeding: bool = True,
        start: int = 0,
        end: int = 1,
        max_steps: int = 32,
        max_source: int = 32,
        seed: int = 0,
    ) -> None:
        states = {"h": (layers, width), "c": (layers, width)} | ({"feed": (width,)} if feeding else {})
        vocabularies = (source_vocabulary, target_vocabulary)
        super().__init__(vocabularies, stop_at(start, end, max_steps), max_source, width, states, ("h", "c"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = Encoder(source_vocabulary, embedding, width, layers)
            self.step = Step(target_vocabulary, embedding, width, layers, score, window, feeding)
        self.width, self.layers, self.window, self.feeding = width, layers, window, feeding

    def forward(self, src: torch.Tensor, src_mask: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Teacher-forced logits ``(B, T, V)``, for training; the keys are projected once instead of T times.

        Args:
            src: ``(B, S)`` int64. src_mask: ``(B, S)`` bool.
            tokens: ``(B, T)`` int64 fed to the decoder, the start token first.
        """
        memory, h, c = self.encoder(src, src_mask)
        attention = self.step.attention
        keys = attention.project(memory)
        feed, logits = (torch.zeros_like(h[:, 0]) if self.feeding else None), []
        for token in tokens.unbind(1):
            h, c = self.step.recur(token, h, c, feed)
            context, _ = attention.attend(h[:, -1], keys, memory, src_mask)
            step_logits, following = self.step.emit(context, h)
            feed = following if self.feeding else None
            logits.append(step_logits)
        return torch.stack(logits, 1)

    def fair(self, case: Case) -> bool:
        """Whether no position lies so near the edge of a local window that an engine's rounding decides its side."""
        return self.window is None or self.edge_distance(case) > _EDGE

    def edge_distance(self, case: Case) -> float:
        """How near a valid position comes to an edge of the local window, over all steps of a case, in positions."""
        attention, centres = self.step.attention, []
        hook = attention.locate.register_forward_hook(lambda *call: centres.append(call[-1]))
        src, src_mask, tokens = (torch.from_numpy(v) for v in (case.feeds["src"], case.feeds["src_mask"], case.tokens))
        try:
            with torch.inference_mode():
                self(src, src_mask, tokens)
        finally:
            hook.remove()
        centre = valid_lengths(src_mask).unsqueeze(1) * torch.stack(centres)  # (T, B, 1)
        edges = ((torch.arange(src.shape[1]) - centre).abs() - attention.window).abs()  # (T, B, S)
        return float(edges.masked_fill(~src_mask, torch.inf).min())


_DATES = {
    "source_vocabulary": 44,
    "target_vocabulary": 13,
    "embedding": 32,
    "width": 128,
    "start": 0,
    "end": 1,
    "max_steps": 12,
    "max_source": 40,
}
_LARGE = {
    "source_vocabulary": 8000,
    "target_vocabulary": 8000,
    "embedding": 256,
    "width": 512,
    "layers": 2,
    "start": 1,
    "end": 2,
    "max_steps": 64,
    "max_source": 50,
}

MODEL = Model(
    name="seq2seq",
    build=Seq2Seq,
    source=source,
    configs={
        "luong_dates": Config(
            _DATES,
            weights="luong_dates",
            task="dates",
            about="human-written dates to ISO 8601, character by character, Luong 'general'",
        ),
        "luong_local_dates": Config(
            {**_DATES, "window": 10},
            weights="luong_local_dates",
            task="dates",
            training={"steps": 1000, "batch": 64},
            about="luong_dates with local-p attention, a window of 10 characters to either side",
        ),
        "luong_2x512": Config(_LARGE, about="2×LSTM-512, vocabulary 8,000, untrained: for latency"),
        "luong_dot_2x512": Config({**_LARGE, "score": "dot"}, about="luong_2x512 with the score 'dot'"),
        "luong_concat_2x512": Config({**_LARGE, "score": "concat"}, about="luong_2x512 with the score 'concat'"),
        "luong_local_2x512": Config({**_LARGE, "window": 10}, about="luong_2x512 with local-p attention, window 10"),
        "luong_no_feeding_2x512": Config({**_LARGE, "feeding": False}, about="luong_2x512 without input feeding"),
    },
    paper="Luong et al., Effective Approaches to Attention-based NMT, EMNLP 2015, sections 3-3.3",
)
