"""One policy, three quantizers: what it says stays float must stay float in each of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgeattn import attention_policy, backends
from edgeattn.errors import UsageError
from edgeattn.graphs import GraphIndex
from edgeattn.program import Case, Program
from edgeattn.quantize import Settings, quantize
from edgeattn.quantize._products import GateProduct, products
from edgeattn.recognise import Attention
from tests.conftest import edgeattn
from tests.graphs import model
from tests.quantize.test_quantize import residual_net

GATE = {"squeeze", "fc1", "fc_relu", "fc2", "gate", "excite"}
IMAGES = np.random.default_rng(0).standard_normal((4, 1, 3, 8, 8)).astype(np.float32)


def in_modules(graph: onnx.ModelProto, modules: dict[str, str]) -> onnx.ModelProto:
    """The graph as PyTorch's exporter leaves it: each node with the modules it lies in."""
    for node in graph.graph.node:
        parts = modules[node.name].split(".")
        scopes = ["", *(".".join(parts[: i + 1]) for i in range(len(parts))), node.name]
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(scopes))
    return graph


def test_a_float_gate_is_float_from_its_pool_to_its_product() -> None:
    found = attention_policy(residual_net(attention=True))
    assert set(found.floats) == GATE
    assert set(found.floats.values()) == {"inside an attention gate (policy gate=float)"}
    assert set(found.int8) == {"stem", "conv1", "conv2", "head"}


def test_an_int8_gate_keeps_only_what_is_narrow() -> None:
    found = attention_policy(residual_net(attention=True), "int8")
    assert found.floats == {}
    assert set(found.int8) == {"stem", "conv1", "conv2", "head", "fc1", "fc2"}
    assert [(p.features, p.mask, p.peak) for p in found.products] == [("c2", "gate", 1.0)]


def test_a_mask_that_one_is_added_to_reaches_two() -> None:
    nodes = [
        helper.make_node("Sigmoid", ["image"], ["mask"]),
        helper.make_node("Add", ["one", "mask"], ["kept"]),
        helper.make_node("Mul", ["kept", "image"], ["y"]),
    ]
    graph = model(nodes, {"image": [1, 3, 8, 8]}, {"y": [1, 3, 8, 8]}, {"one": np.ones(1, np.float32)})
    bam = Attention("bam", frozenset({"mask"}), "mask", "image", "y")
    assert list(products(GraphIndex(graph), [bam])) == [GateProduct("y", "image", "kept", 2.0)]


def quantized_by_nncf(graph: onnx.ModelProto, scope: dict[str, object] | None) -> set[str]:
    """Names of the operators that read a FakeQuantize of data."""
    nncf = pytest.importorskip("nncf", reason="needs NNCF: pip install 'edgeattn[nncf]'")
    import openvino as ov

    ir = ov.Core().read_model(graph.SerializeToString())
    data = nncf.Dataset([{"image": image} for image in IMAGES])
    ignored = nncf.IgnoredScope(**scope) if scope else None
    result = nncf.quantize(ir, data, subset_size=len(IMAGES), ignored_scope=ignored)
    ops = [op for op in result.get_ordered_ops() if op.get_type_name() == "FakeQuantize"]
    ops = [op for op in ops if op.input_value(0).get_node().get_type_name() != "Constant"]
    readers = {r.get_node().get_friendly_name() for op in ops for r in op.output(0).get_target_inputs()}
    return {name.removesuffix("/WithoutBiases") for name in readers}


@pytest.mark.openvino
@pytest.mark.filterwarnings("ignore")  # NNCF's imports warn
def test_nncf_leaves_the_policys_nodes_alone_which_it_would_not_by_itself() -> None:
    graph, inside = residual_net(attention=True), GATE - {"squeeze"}  # a pool passes what it reads
    alone = quantized_by_nncf(graph, None)
    led = quantized_by_nncf(graph, attention_policy(graph).ignored_scope())
    assert alone & inside, "else this test shows nothing"
    assert not led & inside
    assert {"stem", "conv1", "conv2"} <= led


@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore")  # ONNX Runtime's quantizer warns of its own preprocessing
def test_onnxruntimes_quantizer_leaves_the_policys_nodes_alone(tmp_path: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter({"image": image} for image in IMAGES)

        def get_next(self) -> object:
            return next(self.left, None)

    graph = residual_net(attention=True)
    onnx.save(graph, tmp_path / "in.onnx")
    told = json.loads(edgeattn("policy", tmp_path / "in.onnx", "--for", "onnxruntime", "--json").stdout)["main"]
    found = attention_policy(graph)
    assert told == {"nodes_to_exclude": found.nodes_to_exclude(), **found.static_options()}
    quantize_static(tmp_path / "in.onnx", tmp_path / "out.onnx", Reader(), **told)
    result = onnx.load(tmp_path / "out.onnx")
    dequantized = {n.output[0] for n in result.graph.node if n.op_type == "DequantizeLinear"}
    readers = {n.name for n in result.graph.node if set(n.input[1:2]) & dequantized}
    assert set(found.int8) <= readers
    assert not readers & GATE
    assert not any(t.data_type == onnx.TensorProto.INT32 for t in result.graph.initializer), "TensorRT refuses them"


@pytest.mark.onnxruntime
@pytest.mark.parametrize(
    ("pattern", "kept"),
    [
        ("layer1", {"conv1", "conv2"}),
        ("net.layer1.*", set()),
        ("layer1.*", {"conv1", "conv2"}),
        ("layer1.1", {"conv2"}),
        ("conv?", {"conv1", "conv2"}),
    ],
)
def test_keep_takes_pytorchs_module_names_as_prefixes_of_their_nodes(pattern: str, kept: set[str]) -> None:
    where = {"stem": "stem", "stem_relu": "stem", "conv1": "layer1.0", "relu1": "layer1.0", "conv2": "layer1.1"}
    graph = in_modules(residual_net(), where | {"residual": "layer1", "relu2": "layer1", "head": "head"})
    cases = [Case("c", {"image": image}) for image in IMAGES]
    settings = Settings(keep=(pattern,))
    if not kept:
        with pytest.raises(UsageError, match=r"'net\.layer1\.\*' matches no node; did you mean 'layer1"):
            quantize(Program({"main": graph}), "int8-static", backends.oracle, iter(cases), settings)
        return
    result = quantize(Program({"main": graph}), "int8-static", backends.oracle, iter(cases), settings)
    assert set(result.history[-1].notes["kept_float"]) == kept


def test_keep_takes_the_names_that_an_old_exporter_wrote_into_its_nodes() -> None:
    graph = residual_net()
    graph.graph.node[2].name = "/layer1/layer1.0/conv/Conv"
    assert attention_policy(graph, keep=("layer1.0",)).floats == {"/layer1/layer1.0/conv/Conv": "kept by request"}


def test_a_softmax_and_a_normalization_stay_float_whoever_quantizes() -> None:
    graph = residual_net()
    graph.graph.node.append(helper.make_node("Softmax", ["r2"], ["s"], name="weights", axis=1))
    assert attention_policy(graph).floats == {"weights": "softmax: weights near 0 need more than 8 bits"}
