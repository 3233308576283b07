"""A translator whose decoding loop lies inside its graph: PyTorch's while_loop -> one ONNX file with a Loop.

    python examples/while_loop_seq2seq.py numbers.onnx                   # export it, with the tutorial's weights
    edgeattn rewrite numbers.onnx -o numbers --also split_loop           # an encoder and a step, wired

It is the model of `tutorial_seq2seq.py`; only forward() differs: the loop is PyTorch's higher-order `while_loop`, which
the exporter keeps as a Loop with the token, the state and what has been decoded so far going round. Ended rows are fed
the end token, and the loop ends when every row has ended or after MAX_STEPS: the decode loop of edgeattn does the same,
which is why the file can be split.
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch._higher_order_ops.while_loop import while_loop
from tutorial_seq2seq import END, MAX_STEPS, START, WEIGHTS, Translator

from edgeattn import weights


class Looping(nn.Module):
    """Words (B, S) to tokens (B, MAX_STEPS), decoded greedily."""

    def __init__(self) -> None:
        super().__init__()
        self.translator = Translator()
        weights.load(self.translator, WEIGHTS)

    def forward(self, src: torch.Tensor) -> torch.Tensor:
        states, hidden = self.translator.encoder(src)
        token = torch.full_like(src[:, 0], START)
        ended = torch.zeros_like(token, dtype=torch.bool)
        tokens = torch.full_like(src[:, :1], END).repeat(1, MAX_STEPS)
        places = torch.arange(MAX_STEPS)

        def going(t, token, hidden, ended, tokens):
            return (t < MAX_STEPS) & ~ended.all()

        def step(t, token, hidden, ended, tokens):
            logits, hidden, _ = self.translator.decoder(token, hidden, states, src)
            token = torch.where(ended, torch.full_like(token, END), logits.argmax(1))
            tokens = torch.where(places == t, token.unsqueeze(1), tokens)
            return t + 1, token, hidden.clone(), ended | (token == END), tokens

        return while_loop(going, step, (torch.tensor(0), token, hidden.clone(), ended, tokens))[4]


def main() -> None:
    example = torch.ones(2, 6, dtype=torch.long)
    axes = ({0: "batch", 1: "source"},)
    model = Looping().eval()
    named = {"input_names": ["src"], "output_names": ["tokens"], "dynamic_shapes": axes}
    program = torch.onnx.export(model, (example,), dynamo=True, opset_version=18, verbose=False, **named)
    assert program is not None
    program.save(sys.argv[1])


if __name__ == "__main__":
    main()
