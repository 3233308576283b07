"""Mends, each from a graph that a target refuses to one that it takes and that computes the same."""

from __future__ import annotations

import pytest

from edgeattn import backends, capabilities, storage
from edgeattn.errors import UsageError
from edgeattn.mend import Mended, mend
from edgeattn.program import Program
from tests.benchmarks.planted import planted

GRAPHS = planted()

pytestmark = pytest.mark.onnxruntime


def mended(name: str, target: str, precision: str = "fp32", **sizes: int) -> Mended:
    """The planted graph after its mends; the target refused it before."""
    program = storage.with_reference(Program({"main": GRAPHS[name]}), backends.oracle)
    assert capabilities.findings(program.graphs, target, precision)
    return mend(program, target, precision, sizes)


@pytest.mark.parametrize(
    ("name", "target", "precision", "applied"),
    [
        ("layernorm/one", "tensorrt:8.5", "fp32", ("expand:LayerNormalization", "opset:17")),
        ("gelu/tanh", "jetson:jp5.1", "fp32", ("expand:Gelu", "expand:CastLike", "opset:17")),
        ("attention/float-16", "tensorrt-rtx:sm89", "fp32", ("expand:Attention",)),
        ("opset/22", "jetson:jp6.2", "fp32", ("opset:20",)),
        ("MaxPool/window-384", "tensorrt:10.3", "fp32", ("rewrite:canonicalise_global_pool",)),
        ("topk/from-shape", "tensorrt:8.5", "fp32", ("rewrite:fold_constants", "opset:17")),
        ("shape/batch", "openvino:npu", "fp16", ("shapes",)),
        ("gemm/plain", "tensorrt:11.4", "fp16", ("scheme:fp16",)),
    ],
)
def test_what_is_refused_is_mended(name: str, target: str, precision: str, applied: tuple[str, ...]) -> None:
    result = mended(name, target, precision)
    assert result.applied == applied
    assert not result.left
    assert {output.verdict for output in result.parity.outputs.values()} == {"pass"}


def test_what_nothing_mends_is_left_and_told() -> None:
    result = mended("scatternd/add", "tensorrt:10.3")
    assert not result.applied
    assert [f.check for f in result.left] == ["forms"]


def test_a_size_that_nobody_gave_is_asked_for() -> None:
    with pytest.raises(UsageError, match="--size h=N --size w_=N"):
        mended("shape/conv-dynamic", "openvino:npu", "fp16", n=1)


def test_sizes_that_are_given_are_used() -> None:
    result = mended("shape/conv-dynamic", "openvino:npu", "fp16", n=1, h=9, w_=7)
    assert not result.left
    shape = result.program.graphs["main"].graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [1, 3, 9, 7]
