"""Sequence-to-sequence models that loop inside, as people write them, exported in each way PyTorch has."""

from __future__ import annotations

import io
import warnings

import onnx
import torch
from torch import nn

VOCABULARY, WIDTH, STEPS, START, END = 7, 8, 5, 0, 1


class Attending(nn.Module):
    """An encoder, and a decoder with additive attention whose step is called in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(11, WIDTH), nn.Embedding(VOCABULARY, WIDTH)
        self.memory, self.query, self.key = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.score, self.cell, self.out = nn.Linear(WIDTH, 1), nn.Linear(3 * WIDTH, WIDTH), nn.Linear(WIDTH, VOCABULARY)

    def encode(self, src: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        memory = torch.tanh(self.memory(self.source(src)))
        return memory, memory[:, 0].clone()

    def step(
        self, token: torch.Tensor, h: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scores = self.score(torch.tanh(self.query(h).unsqueeze(1) + self.key(memory))).squeeze(2)
        attention = scores.softmax(1)
        context = (attention.unsqueeze(1) @ memory).squeeze(1)
        h = torch.tanh(self.cell(torch.cat((self.target(token), context, h), 1)))
        return self.out(h) * 4, h, attention


class While(Attending):
    """Greedy, a while loop that ends when every row has ended; for torch.jit.script."""

    def forward(self, src: torch.Tensor) -> torch.Tensor:
        memory, h = self.encode(src)
        token = torch.zeros([src.size(0)], dtype=torch.long)
        done = torch.zeros([src.size(0)], dtype=torch.bool)
        tokens = torch.zeros([src.size(0), 0], dtype=torch.long)
        t = 0
        while t < 5 and not bool(done.all()):
            logits, h, _ = self.step(token, h, memory)
            token = torch.where(done, torch.ones_like(token), logits.argmax(1))
            done = done | (token == 1)
            tokens = torch.cat((tokens, token.unsqueeze(1)), 1)
            t += 1
        return tokens


class Forced(Attending):
    """Teacher forcing, a for loop over a length; for torch.jit.script."""

    def forward(self, src: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        memory, h = self.encode(src)
        steps = []
        for t in range(target.size(1)):
            logits, h, _ = self.step(target[:, t], h, memory)
            steps.append(logits)
        return torch.stack(steps)


class HigherOrderWhile(Attending):
    """The same greedy loop as ``while_loop``, which the dynamo exporter turns into a Loop."""

    def forward(self, src: torch.Tensor) -> torch.Tensor:
        from torch._higher_order_ops.while_loop import while_loop

        memory, h = self.encode(src)
        token = torch.zeros_like(src[:, 0])
        done, places = torch.zeros_like(token, dtype=torch.bool), torch.arange(STEPS)

        def going(t, token, h, done, tokens):
            return (t < STEPS) & ~done.all()

        def body(t, token, h, done, tokens):
            logits, h, _ = self.step(token, h, memory)
            token = torch.where(done, torch.full_like(token, END), logits.argmax(1))
            tokens = torch.where(places == t, token.unsqueeze(1), tokens)
            return t + 1, token, h, done | (token == END), tokens

        filled = torch.full_like(src[:, :1], END).repeat(1, STEPS)
        return while_loop(going, body, (torch.tensor(0), token, h, done, filled))[4]


class HigherOrderScan(Attending):
    """Teacher forcing as ``scan``, which the dynamo exporter turns into a Scan."""

    def forward(self, src: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from torch._higher_order_ops.scan import scan

        memory, h = self.encode(src)

        def step(h, token):
            logits, h, attention = self.step(token, h, memory)
            return h.clone(), (logits, attention)

        return scan(step, h, target.transpose(0, 1))[1]


class Unrolled(Attending):
    """A Python loop, which tracing unrolls."""

    def forward(self, src: torch.Tensor) -> torch.Tensor:
        memory, h = self.encode(src)
        token, steps = torch.zeros_like(src[:, 0]), []
        for _ in range(STEPS):
            logits, h, _ = self.step(token, h, memory)
            token = logits.argmax(1)
            steps.append(token)
        return torch.stack(steps, 1)


def scripted(kind: type[Attending], outputs: list[str]) -> onnx.ModelProto:
    """Through torch.jit.script and the TorchScript exporter."""
    model, file = built(kind), io.BytesIO()
    inputs = arguments(kind)
    names = ["src", "target"][: len(inputs)]
    axes = {n: {0: "batch", 1: f"{n}_length"} for n in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            torch.jit.script(model),
            inputs,
            file,
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=outputs,
            dynamic_axes=axes,
        )
    return onnx.load_from_string(file.getvalue())


def traced(kind: type[Attending], outputs: list[str], dynamic: bool = True) -> onnx.ModelProto:
    """Through the dynamo exporter."""
    inputs = arguments(kind)
    shapes = tuple({0: "batch", 1: f"length_{i}"} for i, _ in enumerate(inputs)) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            built(kind),
            inputs,
            dynamo=True,
            opset_version=18,
            dynamic_shapes=shapes,
            output_names=outputs,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def built(kind: type[Attending]) -> Attending:
    torch.manual_seed(44)  # rows of four sources end at different steps
    return kind().eval()


def arguments(kind: type[Attending]) -> tuple[torch.Tensor, ...]:
    src, target = torch.ones(2, 6, dtype=torch.long), torch.ones(2, 4, dtype=torch.long)
    return (src, target) if kind in (Forced, HigherOrderScan) else (src,)
