"""What fuse_layernorm makes of PyTorch's and people's spellings, and what it gains in FP16."""

from __future__ import annotations

import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgeattn import registry
from edgeattn import rewrite as stage
from edgeattn.program import Case, Program, Reference
from edgeattn.rewrite import _apply
from tests.rewrite.engine import open_plain

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime]


class ByHand(nn.Module):
    """Layer normalisation written out."""

    def __init__(self, spelling):
        super().__init__()
        self.spelling = spelling
        self.scale, self.bias = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def forward(self, x):
        centred = x - x.mean(-1, keepdim=True)
        if self.spelling == "variance":
            return centred / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * self.scale + self.bias
        square = centred.pow(2).mean(-1, keepdim=True)
        if self.spelling == "rsqrt":
            return centred * torch.rsqrt(square + 1e-5) * self.scale + self.bias
        if self.spelling == "scale first":
            return self.scale * centred / torch.sqrt(square + 1e-5) + self.bias
        if self.spelling == "unbiased":
            return self.scale * centred / (x.std(-1, keepdim=True) + 1e-5) + self.bias
        return centred / torch.sqrt(square + 1e-5)


def written(module, opset=17):
    """What TorchScript's exporter writes, with eager PyTorch's outputs for two batch sizes."""
    inputs = [torch.randn(2, 5, 8), torch.randn(3, 5, 8)]
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter announces its own end
        torch.onnx.export(
            module.eval(),
            (inputs[0],),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}},
        )
    with torch.no_grad():
        cases = tuple(Case(f"b{len(x)}", {"x": x.numpy()}, None, {"y": module(x).numpy()}) for x in inputs)
    return Program({"main": onnx.load_from_string(file.getvalue())}, reference=Reference("pytorch eager", cases))


def rewritten(program):
    result = stage.rewrite(program, open_plain)
    assert [r for r in result.history[-1].notes["rules"] if "undone" in r] == []
    for case in program.reference.cases:
        # eight terms of order 1 in float32, added in another order
        np.testing.assert_allclose(
            open_plain(result)["main"].run(case.feeds)["y"], case.outputs["y"], atol=1e-5, rtol=1e-4
        )
    return [n.op_type for n in result.graphs["main"].graph.node]


@pytest.mark.parametrize("spelling", ["variance", "rsqrt", "scale first", "plain"])
def test_a_layer_normalisation_written_out_is_one_operator(spelling):
    torch.manual_seed(0)
    assert rewritten(written(ByHand(spelling))) == ["LayerNormalization"]


def test_what_divides_by_the_unbiased_deviation_is_left_alone():
    torch.manual_seed(0)
    assert "LayerNormalization" not in rewritten(written(ByHand("unbiased")))


def test_an_older_opset_is_told_which_one_it_needs():
    program = written(nn.LayerNorm(8), opset=16)
    assert "LayerNormalization" not in rewritten(program)
    (told, *_) = stage.why_not("fuse_layernorm", program)
    assert told.reason.startswith("LayerNormalization exists from opset 17 on, this graph has 16")


def test_half_precision_asks_for_sums_in_float32():
    rule = registry.get("rewrite", "fuse_layernorm")
    model = onnx.ModelProto.FromString(rule.examples()[0].graphs["main"].SerializeToString())
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), tensor.name))
    result = _apply.apply(rule, Program({"main": _apply.infer_shapes(model)})).program
    (node,) = result.graphs["main"].graph.node
    assert {a.name: a.i for a in node.attribute}["stash_type"] == onnx.TensorProto.FLOAT
    x = np.linspace(-2400, 2400, 40, dtype=np.float16).reshape(1, 5, 8)  # squares beyond float16's 65,504
    assert np.isfinite(open_plain(result)["main"].run({"x": x})["y"]).all()
