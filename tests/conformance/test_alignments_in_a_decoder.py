"""What an alignment block is for: a decoder asks it at every step, and what does not change is computed once."""

import numpy as np
import pytest
import torch

from edgeattn import registry
from edgeattn import rewrite as stage
from edgeattn.export import export
from edgeattn.models import GraphSource, Source
from edgeattn.program import Case, Stop, TensorSpec, Wiring
from tests.rewrite.engine import open_plain

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]


class Decoder(torch.nn.Module):
    """The smallest decoder step around an alignment: the context drives one recurrent cell."""

    def __init__(self, attention):
        super().__init__()
        self.attention, self.embed = attention, torch.nn.Embedding(5, 8)
        self.cell, self.emit = torch.nn.Linear(24, 8), torch.nn.Linear(8, 5)

    def forward(self, token, h, memory, mask):
        context, _ = self.attention(h, memory, mask)
        h = torch.tanh(self.cell(torch.cat((self.embed(token), context, h), 1)))
        return self.emit(h), h


class Annotate(torch.nn.Module):
    """Hands the annotations over and starts the decoder from their mean."""

    def forward(self, x, mask):
        memory = torch.tanh(x) * mask.unsqueeze(2).to(x.dtype)
        return memory, memory.mean(1)


@pytest.mark.parametrize(
    ("name", "options", "fewer"),
    [
        ("bahdanau", {}, 1),
        ("bahdanau", {"bias": True}, 1),
        ("luong", {}, 1),
        ("luong", {"score": "concat"}, 0),  # split_concat_score makes two products of one, and one of them moves
    ],
)
def test_what_a_decoder_repeats_every_step_is_hoisted_into_its_encoder(name, options, fewer):
    torch.manual_seed(0)
    program = looped(registry.get("blocks", name).build(8, 8, **options).eval())
    result = stage.rewrite(program, open_plain)
    (record,) = [r for r in result.history[-1].notes["rules"] if r["rule"] == "hoist_keys"]
    assert record["count"] == 1
    assert "undone" not in record

    def products(program, graph):
        return sum(n.op_type in ("MatMul", "Gemm") for n in program.graphs[graph].graph.node)

    assert products(result, "encoder") == products(program, "encoder") + 1
    assert products(result, "step") == products(program, "step") - fewer


def looped(attention):
    mask = TensorSpec("mask", "bool", ("batch", "source"))
    x, memory = (TensorSpec(name, "float32", ("batch", "source", 8)) for name in ("x", "memory"))
    token, h = TensorSpec("token", "int64", ("batch",)), TensorSpec("h", "float32", ("batch", 8))
    graphs = {
        "encoder": GraphSource(Annotate(), (x, mask), ("memory", "start")),
        "step": GraphSource(Decoder(attention), (token, h, memory, mask), ("logits", "h_out")),
    }
    wiring = Wiring(
        feeds={"step.memory": "encoder.memory", "step.h": "encoder.start"},
        state={"step.h": "step.h_out"},
        stop=Stop("step.token", "step.logits", 0, 1, 4),
    )

    def cases(seed):
        rng = np.random.default_rng(seed)
        for batch, length in ((2, 5), (3, 7)):
            feeds = {
                "x": rng.standard_normal((batch, length, 8), np.float32),
                "mask": np.arange(length) < np.arange(length, length - batch, -1)[:, None],
            }
            yield Case(f"{batch}x{length}", feeds, rng.integers(0, 5, (batch, 3)))

    return export(Source(graphs, wiring, lambda seed: list(cases(seed))))
