"""Rules meet what the PyTorch exporter writes: the ways people spell SE, CBAM and Luong attention."""

from __future__ import annotations

import functools
import logging
import warnings
from collections import Counter

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgeattn import rewrite as stage
from edgeattn.program import Case, Program, Reference, Stop, Wiring
from tests.rewrite.engine import open_plain

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]

SHAPE_OPS = {"Expand", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Shape", "Gemm", "MatMul"}
C, R = 8, 2


class SharedMlp(nn.Module):
    def __init__(self, bias=True, act=nn.ReLU):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(C, C // R, bias), act(), nn.Linear(C // R, C, bias)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class OriginalCbam(nn.Module):
    """Pools with kernel = (H, W), a Flatten, two unsqueezes and expand_as; max comes first in the concatenation."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Flatten(), SharedMlp())
        self.conv, self.norm = nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1)

    def forward(self, x):
        size = (x.size(2), x.size(3))
        pooled = self.mlp(F.avg_pool2d(x, size, stride=size)) + self.mlp(F.max_pool2d(x, size, stride=size))
        x = x * torch.sigmoid(pooled).unsqueeze(2).unsqueeze(3).expand_as(x)
        z = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), 1)
        return x * torch.sigmoid(self.norm(self.conv(z)))


class TimmCbam(nn.Module):
    """mean((2, 3)), 1×1 convolutions without bias; mean comes first in the concatenation."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(C, C // R, 1, bias=False), nn.Conv2d(C // R, C, 1, bias=False)
        self.conv, self.norm = nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1)

    def forward(self, x):
        avg = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        top = self.fc2(F.relu(self.fc1(x.amax((2, 3), keepdim=True))))
        x = x * torch.sigmoid(avg + top)
        z = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.norm(self.conv(z)))


class AdaptiveCbam(nn.Module):
    """AdaptivePool2d(1), flatten(1), indexing with None."""

    def __init__(self, act=nn.ReLU, bias=True):
        super().__init__()
        self.mlp = SharedMlp(bias, act)
        self.avg, self.max = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)

    def forward(self, x):
        gate = self.mlp(self.avg(x).flatten(1)) + self.mlp(self.max(x).flatten(1))
        return x * torch.sigmoid(gate)[:, :, None, None]


class ViewCbam(AdaptiveCbam):
    """x.view(b, c, -1).mean(-1), squeezes, view(b, c, 1, 1)."""

    def forward(self, x):
        b, c = x.shape[:2]
        avg = self.mlp(x.view(b, c, -1).mean(-1))
        top = self.mlp(self.max(x).squeeze(-1).squeeze(-1))
        return x * torch.sigmoid(avg + top).view(b, c, 1, 1)


class Se(nn.Module):
    """The best-known SE: view(b, c), Linear without bias, view(b, c, 1, 1), expand_as."""

    def __init__(self, bias=False, expand=True, gate=nn.Sigmoid):
        super().__init__()
        self.fc = nn.Sequential(SharedMlp(bias), gate())
        self.pool, self.expand = nn.AdaptiveAvgPool2d(1), expand

    def forward(self, x):
        b, c, _, _ = x.shape
        y = self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1)
        return x * (y.expand_as(x) if self.expand else y)


class SeMean(nn.Module):
    """mean over (2, 3) without keepdim, sigmoid after the reshape."""

    def __init__(self):
        super().__init__()
        self.mlp = SharedMlp()

    def forward(self, x):
        return x * torch.sigmoid(self.mlp(x.mean((2, 3))).unsqueeze(-1).unsqueeze(-1))


GATES = {
    "cbam-original": (OriginalCbam, 2 + 1),
    "cbam-timm": (TimmCbam, 2 + 1),
    "cbam-adaptive": (AdaptiveCbam, 2),
    "cbam-adaptive-silu-no-bias": (lambda: AdaptiveCbam(nn.SiLU, bias=False), 2),
    "cbam-adaptive-gelu": (lambda: AdaptiveCbam(nn.GELU), 2),
    "cbam-view": (ViewCbam, 2),
    "se-expand": (Se, 2),
    "se-bias": (lambda: Se(bias=True, expand=False), 2),
    "se-hardsigmoid": (lambda: Se(bias=True, gate=nn.Hardsigmoid), 2),
    "se-mean": (SeMean, 2),
}


def exported(module, args, dynamic, names=None, outputs=None):
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        return torch.onnx.export(
            module.eval(),
            args,
            dynamo=True,
            opset_version=18,
            dynamic_shapes=dynamic,
            input_names=names,
            output_names=outputs,
            verbose=False,
        ).model_proto


def randomised(module):
    """Statistics and weights away from their neutral start."""
    torch.manual_seed(0)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
            m.weight.data.normal_()
            m.bias.data.normal_()
    return module.eval()


def program_of(module, shapes):
    """A dynamic-batch program whose reference is what PyTorch computes at two batch sizes."""
    torch.manual_seed(1)
    inputs = [torch.randn(shape) for shape in shapes]
    model = exported(module, (inputs[-1],), ({0: "batch"},), ["x"], ["y"])
    with torch.no_grad():
        cases = tuple(Case(f"b{len(x)}", {"x": x.numpy()}, None, {"y": module(x).numpy()}) for x in inputs)
    return Program({"main": model}, reference=Reference("pytorch eager", cases))


def operators(program, name="main"):
    return Counter(n.op_type for n in program.graphs[name].graph.node)


# The two best-known spellings in every run; the others, at two seconds of exporting each, in the long one.
SPELLINGS = [
    name if name in ("cbam-original", "se-expand") else pytest.param(name, marks=pytest.mark.slow) for name in GATES
]


@functools.cache
def spelled(spelling):
    """The exported program and its rewritten form; exporting is what takes the time."""
    program = program_of(randomised(GATES[spelling][0]()), [(1, C, 6, 5), (3, C, 6, 5)])
    return program, stage.rewrite(program, open_plain)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_a_gate_becomes_two_convolutions_and_no_shape_operator(spelling):
    _, result = spelled(spelling)
    ops = operators(result)
    assert ops["Conv"] == GATES[spelling][1], ops
    assert not SHAPE_OPS & set(ops), ops
    assert "BatchNormalization" not in ops
    assert [r for r in result.history[-1].notes["rules"] if "undone" in r] == []


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_batch_stays_dynamic_and_pytorch_agrees(spelling):
    program, result = spelled(spelling)
    dims = result.graphs["main"].graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch"
    session = open_plain(result)["main"]
    for case in program.reference.cases:
        # float32 sums over at most 98 terms of order 1: a few units in the last place
        np.testing.assert_allclose(session.run(case.feeds)["y"], case.outputs["y"], rtol=1e-4, atol=1e-5)


def test_new_nodes_speak_in_module_names():
    _, result = spelled("cbam-original")
    convs = [n for n in result.graphs["main"].graph.node if n.op_type == "Conv"]
    scopes = [{p.key: p.value for p in n.metadata_props}["pkg.torch.onnx.name_scopes"] for n in convs]
    assert ["fc1" in scopes[0], "fc2" in scopes[1]] == [True, True]


def test_a_classifier_head_stays_a_gemm():
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(C, 5)

        def forward(self, x):
            return self.fc(self.pool(x).flatten(1))

    result = stage.rewrite(program_of(Head(), [(2, C, 6, 6), (1, C, 6, 6)]), open_plain)
    assert operators(result)["Gemm"] == 1
    assert operators(result)["Conv"] == 0


class Decoder(nn.Module):
    """A step with Luong attention; the state is the query itself."""

    def __init__(self, score, width=8, vocabulary=7):
        super().__init__()
        self.score = score
        self.embed = nn.Embedding(vocabulary, width)
        self.w = nn.Linear(2 * width if score == "concat" else width, width, bias=score == "concat")
        self.v, self.out = nn.Linear(width, 1, bias=False), nn.Linear(2 * width, vocabulary)

    def forward(self, token, h, memory, mask):
        h = torch.tanh(h + self.embed(token))
        if self.score == "concat":
            wide = h.unsqueeze(1).expand(-1, memory.size(1), -1)
            score = self.v(torch.tanh(self.w(torch.cat((wide, memory), 2)))).squeeze(2)
        else:
            score = torch.bmm(self.w(memory), h.unsqueeze(2)).squeeze(2)
        weights = torch.softmax(score.masked_fill(~mask, float("-inf")), -1)
        weights = torch.where(mask, weights, torch.zeros_like(weights))
        context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
        return self.out(torch.cat((context, h), 1)), h


class Encoder(nn.Module):
    def forward(self, x):
        return torch.tanh(x), x[:, 0]


@functools.cache
def translator(score) -> Program:
    torch.manual_seed(0)
    step = Decoder(score)
    batch, width = "batch", 8
    args = (torch.zeros(2, dtype=torch.int64), torch.randn(2, width), torch.randn(2, 5, width), torch.ones(2, 5) > 0)
    by_source = {0: batch, 1: "source"}
    graphs = {
        "encoder": exported(Encoder(), (torch.randn(2, 5, width),), (by_source,), ["x"], ["memory", "h0"]),
        "step": exported(
            step,
            args,
            ({0: batch}, {0: batch}, by_source, by_source),
            ["token", "h", "memory", "mask"],
            ["logits", "h_out"],
        ),
    }
    wiring = Wiring(
        feeds={"step.memory": "encoder.memory", "step.h": "encoder.h0"},
        state={"step.h": "step.h_out"},
        stop=Stop("step.token", "step.logits", 0, 1, 5),
    )
    rng = np.random.default_rng(0)
    cases = []
    for name, (n, s) in {"b1": (1, 5), "b3": (3, 4), "masked-row": (2, 3)}.items():
        mask = np.ones((n, s), bool)
        mask[-1, 1:] = False
        mask[-1, 0] = name != "masked-row"
        feeds = {"x": rng.standard_normal((n, s, width)).astype(np.float32), "mask": mask}
        cases.append(Case(name, feeds, rng.integers(0, 7, (n, 4))))
    return Program(graphs, wiring, Reference("source graph", tuple(cases)))


@pytest.mark.parametrize("score", ["general", "concat"])
def test_luong_keys_leave_the_step(score):
    result = stage.rewrite(translator(score), open_plain)
    assert {r["rule"]: r["count"] for r in result.history[-1].notes["rules"]}["hoist_keys"] == 1
    assert [r for r in result.history[-1].notes["rules"] if "undone" in r] == []
    assert result.wiring.feeds["step.memory_keys"] == "encoder.memory_keys"
    assert operators(result, "encoder")["MatMul"] == 1
    assert "Expand" not in operators(result, "step")
    added = {t.name: list(t.dims) for t in result.graphs["encoder"].graph.initializer}
    assert [8, 8] in added.values()


@pytest.mark.parametrize("score", ["general", "concat"])
def test_the_mask_is_finite_and_an_empty_row_gives_zeros(score):
    result = stage.rewrite(translator(score), open_plain)
    numbers = [onnx.numpy_helper.to_array(t) for t in result.graphs["step"].graph.initializer if not t.dims]
    assert np.float32(-1e4) in numbers
    assert not any(np.isinf(n) for n in numbers if n.dtype.kind == "f")


def test_the_new_step_input_has_a_shape_and_the_encoder_output_the_same_symbols():
    result = stage.rewrite(translator("general"), open_plain)
    step, encoder = result.graphs["step"].graph, result.graphs["encoder"].graph
    handed = next(v for v in step.input if v.name == "memory_keys")
    given = next(v for v in encoder.output if v.name == "memory_keys")
    assert [d.dim_param or d.dim_value for d in handed.type.tensor_type.shape.dim] == ["batch", "source", 8]
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["batch", "source", 8]


class TwoMasks(nn.Module):
    """finfo.min written and added; both overflow in FP16."""

    def forward(self, x):
        low = torch.finfo(torch.float32).min
        keep = (x > -0.5).float()
        return torch.softmax(x.masked_fill(keep == 0, low), -1) + torch.softmax(x + (1.0 - keep) * low, -1)


def test_masks_of_finfo_min_are_clamped_written_or_added():
    program = program_of(TwoMasks(), [(2, 9), (5, 9)])
    result = stage.rewrite(program, open_plain)
    assert {r["rule"]: r["count"] for r in result.history[-1].notes["rules"]}["clamp_mask"] == 2


def test_a_gru_that_lost_linear_before_reset_gets_pytorchs_numbers_back():
    torch.manual_seed(0)
    gru = nn.GRU(4, 3).eval()
    x = torch.randn(6, 2, 4)
    with torch.no_grad():
        expected = gru(x)[0].numpy()
    model = exported(gru, (x,), None, ["x"], ["y", "h"])
    node = next(n for n in model.graph.node if n.op_type == "GRU")
    (flag,) = [a for a in node.attribute if a.name == "linear_before_reset"]
    assert flag.i == 1, "the exporter is right today; the fault is planted"
    flag.i = 0
    with torch.no_grad():
        outputs = {"y": expected, "h": gru(x)[1].numpy()}
    case = Case("normal", {"x": x.numpy()}, None, outputs)
    program = Program({"main": model}, reference=Reference("pytorch eager", (case,)))
    broken = open_plain(program)["main"].run(case.feeds)["y"]
    assert np.abs(broken - expected).max() > 0.01

    result = stage.rewrite(program, open_plain)
    # the same float32 recurrence over six steps
    np.testing.assert_allclose(open_plain(result)["main"].run(case.feeds)["y"], expected, atol=1e-6)
    record = next(r for r in result.history[-1].notes["rules"] if r["rule"] == "restore_linear_before_reset")
    assert record["count"] == 1
    assert "undone" not in record


def test_without_pytorchs_outputs_the_gru_is_only_reported():
    gru = nn.GRU(4, 3).eval()
    x = torch.randn(6, 2, 4)
    model = exported(gru, (x,), None, ["x"], ["y", "h"])
    next(
        a for n in model.graph.node if n.op_type == "GRU" for a in n.attribute if a.name == "linear_before_reset"
    ).i = 0
    reference = Reference("source graph", (Case("normal", {"x": x.numpy()}),))
    result = stage.rewrite(Program({"main": model}, reference=reference), open_plain)
    record = next(r for r in result.history[-1].notes["rules"] if r["rule"] == "restore_linear_before_reset")
    assert record["note"] == "found, but left alone: there are no PyTorch outputs to judge a restored graph by"
    gru_node = next(n for n in result.graphs["main"].graph.node if n.op_type == "GRU")
    assert next(a.i for a in gru_node.attribute if a.name == "linear_before_reset") == 0
