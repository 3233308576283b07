"""From a sequence-to-sequence model as tutorials write it to engines: one forward() with a Python loop -> two graphs.

    edgeattn run examples/tutorial_seq2seq.yaml -o runs/numbers        # export, rewrite, compile, prove
    python examples/tutorial_seq2seq.py                                # train it again, half a minute
    python examples/tutorial_seq2seq.py "nine hundred and four"        # PyTorch's own loop: 904

The model reads numbers ("two thousand and forty one") and writes their digits. `Encoder`, `Decoder` and `Translator`
are what such code looks like anywhere: a GRU, additive attention, and one forward() that calls the decoder in a Python
loop, with teacher forcing in training. An ONNX graph has no such loop, so the model is handed over as two graphs, and
edgeattn's decode loop (the same on the bench and on the device) takes the place of Python's.

To do the same to yours:
1. Find what is computed once: that module is the graph `encoder`. Its outputs are what the loop reads.
2. Find the body of the loop, one token in, logits out: that is the graph `step`. Everything it needs is an argument,
   everything it hands to its next call is a return value; nothing may be kept in attributes.
3. Write down how they feed each other, `Wiring`: `feeds` for what crosses once, `state` for what goes round, `Stop` for
   the token that goes in, the logits that come out, and the first and the last token.
An input that several graphs take under one name (here `src`, for the mask) is given once and reaches all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgeattn import weights
from edgeattn.models import GraphSource, Source
from edgeattn.program import Case, Stop, TensorSpec, Wiring
from edgeattn.tasks import EXACT_MATCH, Batch, Task

WEIGHTS = Path(__file__).with_suffix(".safetensors")
ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
WORDS = ("<pad>", "<unknown>", "and", "hundred", "thousand", *ONES, *TENS)
DIGITS = ("<start>", "<end>", *"0123456789")
PAD, UNKNOWN, START, END, MAX_STEPS, WIDTH = 0, 1, 0, 1, 6, 64


# The model, as found in a tutorial.


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), WIDTH)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, src: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Words (B, S) to states (B, S, D) and the state after each row's last word (B, D)."""
        states, _ = self.gru(self.embedding(src))
        last = ((src != PAD).sum(1) - 1).clamp(min=0)
        return states, states[torch.arange(len(src)), last]


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(DIGITS), WIDTH)
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.score = nn.Linear(WIDTH, 1)
        self.cell = nn.GRUCell(2 * WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, len(DIGITS))

    def forward(
        self, token: torch.Tensor, hidden: torch.Tensor, states: torch.Tensor, src: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One step: token (B,) and hidden (B, D) to logits (B, V), the next hidden, and attention (B, S)."""
        scores = self.score(torch.tanh(self.query(hidden).unsqueeze(1) + self.key(states))).squeeze(2)
        attention = scores.masked_fill(src == PAD, -1e9).softmax(1)
        context = (attention.unsqueeze(1) @ states).squeeze(1)
        hidden = self.cell(torch.cat((self.embedding(token), context), 1), hidden)
        return self.out(hidden), hidden, attention


class Translator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()

    def forward(self, src: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B, T, V); with `target` (B, T) the true token is fed back, without it the model's own."""
        states, hidden = self.encoder(src)
        token, steps = torch.full((len(src),), START), []
        for t in range(MAX_STEPS if target is None else target.shape[1]):
            logits, hidden, _ = self.decoder(token, hidden, states, src)
            steps.append(logits)
            token = logits.argmax(1) if target is None else target[:, t]
        return torch.stack(steps, 1)


# What edgeattn needs to know about it: two graphs and how they feed each other.


def translator() -> Source:
    """What edgeattn calls."""
    module = Translator()
    weights.load(module, WEIGHTS)
    src = TensorSpec("src", "int64", ("batch", "source"))
    hidden = TensorSpec("hidden", "float32", ("batch", WIDTH))
    states = TensorSpec("states", "float32", ("batch", "source", WIDTH))
    token = TensorSpec("token", "int64", ("batch",))
    return Source(
        {
            "encoder": GraphSource(module.encoder, (src,), ("states", "hidden")),
            "step": GraphSource(module.decoder, (token, hidden, states, src), ("logits", "hidden_out", "attention")),
        },
        Wiring(
            feeds={"step.states": "encoder.states", "step.hidden": "encoder.hidden"},
            state={"step.hidden": "step.hidden_out"},
            stop=Stop("step.token", "step.logits", start=START, end=END, max_steps=MAX_STEPS),
        ),
        cases,
    )


def cases(seed: int) -> Sequence[Case]:
    """What every stage is judged on beside real numbers: any words, one word, an empty row; the tokens are forced."""
    rng = np.random.default_rng(seed)
    lengths = {"normal-b1": [7], "normal-b2": [7, 7], "length-1": [1, 1], "ragged": [8, 1, 4], "masked-row": [5, 0]}
    found = []
    for name, rows in lengths.items():
        src = rng.integers(2, len(WORDS), (len(rows), max(rows)))
        src[np.arange(max(rows)) >= np.array(rows)[:, None]] = PAD
        found.append(Case(name, {"src": src}, rng.integers(2, len(DIGITS), (len(rows), 4))))
    return found


# Its task: data that was held out, and what counts as right.


def spell(number: int) -> str:
    """1042 -> "one thousand and forty two"."""
    if number >= 100:
        size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
        head, rest = divmod(number, size)
        link = "" if not rest else " and " if rest < 100 else " "
        return f"{spell(head)} {name}{link}{spell(rest) if rest else ''}"
    if number < 20:
        return ONES[number]
    return TENS[number // 10 - 2] + (f" {ONES[number % 10]}" if number % 10 else "")


def encode(texts: Sequence[str]) -> np.ndarray:
    """Texts to words (B, S) int64; S is the longest."""
    rows = [[WORDS.index(w) if w in WORDS else UNKNOWN for w in text.lower().split()] for text in texts]
    return np.array([row + [PAD] * (max(map(len, rows)) - len(row)) for row in rows], np.int64)


def encode_targets(numbers: Sequence[int]) -> np.ndarray:
    """Numbers to their digits (B, 5) int64, padded with the end token."""
    rows = [[DIGITS.index(d) for d in str(number)] for number in numbers]
    return np.array([row + [END] * (5 - len(row)) for row in rows], np.int64)


def split(part: str) -> np.ndarray:
    """The numbers 0 to 9,999 in a fixed shuffled order: 1,000 to test, the others to train.

    Zero is one of the others: no other number says "zero".
    """
    numbers = 1 + np.random.RandomState(7).permutation(9_999)
    return numbers[:1000] if part == "test" else np.append(numbers[1000:], 0)


def batches(part: str, samples: int | None, size: int) -> Iterator[Batch]:
    numbers = split(part)[:samples]
    for start in range(0, len(numbers), size):
        some = numbers[start : start + size].tolist()
        yield Batch({"src": encode([spell(n) for n in some])}, encode_targets(some))


def score(outputs: dict[str, np.ndarray], targets: np.ndarray) -> np.ndarray:
    """1.0 where every digit is right and the output ends there."""
    tokens = outputs["tokens"]
    width = max(tokens.shape[1], targets.shape[1])
    padded = [np.pad(t, ((0, 0), (0, width - t.shape[1])), constant_values=END) for t in (tokens, targets)]
    return (padded[0] == padded[1]).all(1).astype(np.float64)


TASK = Task(
    name="numbers",
    metric=EXACT_MATCH,
    train=lambda samples, batch: batches("train", samples, batch),
    test=lambda samples, batch: batches("test", samples, batch),
    score=score,
    assets=dict,
    read=lambda feeds, tokens: (
        tuple(WORDS[i] for i in feeds["src"][0]),
        tuple(DIGITS[t] for t in tokens[0]),
    ),
    about="numbers in words to digits, 1,000 of 10,000 held out: exact match",
)


def train(epochs: int = 12, seed: int = 0) -> Translator:
    """Teacher forcing, Adam and a cosine schedule on the training numbers; the last weights are kept.

    Nine numbers in ten have four digits: an epoch draws the short ones more often, or they would hardly be seen.
    """
    torch.manual_seed(seed)
    module = Translator()
    numbers = split("train")
    data = [
        (torch.from_numpy(b.feeds["src"]), torch.from_numpy(b.targets)) for b in batches("train", None, len(numbers))
    ]
    ((src, targets),) = data
    digits = torch.tensor([len(str(n)) for n in numbers])
    chance = (1 / digits.bincount().clamp(min=1).sqrt())[digits]
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * -(-len(numbers) // 64))
    for _ in range(epochs):
        for rows in torch.multinomial(chance, len(numbers), replacement=True).split(64):
            logits = module(src[rows], targets[rows])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets[rows].flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return module.eval()


def read(module: Translator, texts: Sequence[str]) -> list[str]:
    """Translate with PyTorch's own Python loop."""
    with torch.inference_mode():
        tokens = module(torch.from_numpy(encode(texts))).argmax(2).tolist()
    return ["".join(DIGITS[t] for t in (row[: row.index(END)] if END in row else row)) for row in tokens]


def main() -> None:
    if sys.argv[1:]:
        module = Translator().eval()
        weights.load(module, WEIGHTS)
        print(*read(module, sys.argv[1:]), sep="\n")
        return
    module = train()
    held_out = split("test").tolist()
    right = np.mean([a == str(n) for a, n in zip(read(module, [spell(n) for n in held_out]), held_out, strict=True)])
    weights.write(WEIGHTS, module.state_dict(), {"task": "numbers", "exact_match": f"{right:.4f}"})
    print(f"{WEIGHTS}: {right:.1%} of {len(held_out)} held-out numbers")


if __name__ == "__main__":
    main()
