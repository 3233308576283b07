"""Each check on a planted graph that it must find, and on one just beside it that it must let pass."""

from __future__ import annotations

import pytest

from edgeattn import registry
from edgeattn.backends import Options
from edgeattn.capabilities import findings
from edgeattn.harness.limits import Limits
from edgeattn.program import Program
from tests.benchmarks.planted import planted

GRAPHS = planted()
# check: (found, beside it, target, precision)
EXAMPLES: dict[str, tuple[str, str, str, str]] = {
    "attention": ("attention/float16-4", "attention/float16-64", "tensorrt-rtx", "fp32"),
    "bits64": ("int64/weight-large", "int64/weight-small", "tensorrt:8.6", "fp32"),
    "compute_capability": ("attention/bfloat16-64", "attention/float16-64", "tensorrt-rtx:sm75", "fp32"),
    "constants": ("ReduceMax/given", "ReduceMax/stored", "tensorrt:10.3", "fp32"),
    "cpu_forms": ("qdq/int16-zero-0", "qdq/int8-zero-0", "openvino:cpu", "fp32"),
    "domains": ("domain/microsoft-gelu", "domain/function", "tensorrt:10.3", "fp32"),
    "element_types": ("type/Add-uint32", "type/Add-int64", "tensorrt:10.3", "fp32"),
    "forms": ("scatternd/add", "scatternd/none", "tensorrt:10.15", "fp32"),
    "loops": ("loop/trip-none-scan", "loop/trip-stored-scan", "tensorrt:10.3", "fp32"),
    "operators": ("dynamic/matmul", "matmul/2x3-3x4", "tensorrt:11.0", "fp32"),
    "opset": ("opset/21", "opset/20", "tensorrt:10.3", "fp32"),
    "pooling": ("MaxPool/window-317", "MaxPool/window-316", "tensorrt:10.3", "fp32"),
    "precision": ("matmul/2x3-3x4", "type/MatMul-float16", "tensorrt:11.4", "fp16"),
    "quantization": ("qdq-conv/bias-int32-no-zero", "qdq-conv/bias-float", "tensorrt:10.3", "int8"),
    "shape_inputs": ("resize/scales-given", "resize/sizes-given", "tensorrt-rtx", "fp32"),
    "static_shapes": ("shape/batch", "shape/scalar", "openvino:npu", "fp16"),
    "topk": ("topk/3841", "topk/3840", "tensorrt:10.3", "fp32"),
    "typed_operators": ("type/Max-int16", "type/Max-int32", "onnxruntime", "fp32"),
}
ELSEWHERE = {"file_size": "needs two gigabytes", "names": "below: it takes two nodes of one name"}


def test_every_check_has_its_example() -> None:
    assert set(registry.names("capabilities")) == {*EXAMPLES, *ELSEWHERE}, "add it to EXAMPLES"


@pytest.mark.parametrize("check", EXAMPLES)
def test_finds_what_is_planted_and_lets_its_neighbour_pass(check: str) -> None:
    found, beside, target, precision = EXAMPLES[check]
    told = [f for f in findings({"main": GRAPHS[found]}, target, precision) if f.check == check]
    assert told
    assert all(f.reason and f.hint and f.source for f in told)
    assert check not in {f.check for f in findings({"main": GRAPHS[beside]}, target, precision)}


def test_a_quantizer_needs_a_name_of_its_own() -> None:
    model = GRAPHS["qdq-conv/bias-float"]
    assert not findings({"main": model}, "tensorrt-rtx", "int8")
    for node in (twice := type(model).FromString(model.SerializeToString())).graph.node:
        node.name = "same"
    (told,) = findings({"main": twice}, "tensorrt-rtx", "int8")
    assert (told.check, told.mend) == ("names", "names")


def test_a_node_is_called_by_the_module_that_it_came_from() -> None:
    model = type(GRAPHS["topk/5000"]).FromString(GRAPHS["topk/5000"].SerializeToString())
    told = model.graph.node[0].metadata_props.add()
    told.key, told.value = "pkg.torch.onnx.name_scopes", "['', 'head.best', 'topk']"
    (found,) = findings({"main": model}, "jetson:jp6.2")
    assert found.where == "head.best (TopK_y)"


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("openvino:cpu", set()),
        ("openvino:gpu.1", set()),
        ("openvino:auto", set()),  # an NPU has to be named
        ("openvino:auto:npu,cpu", {"precision", "static_shapes"}),
        ("openvino:hetero:gpu,npu", {"precision", "static_shapes"}),
        ("openvino:npu.3720", {"precision", "static_shapes"}),
    ],
)
def test_a_list_of_devices_is_told_what_any_of_them_would_refuse(target: str, found: set[str]) -> None:
    assert {f.check for f in findings({"main": GRAPHS["shape/batch"]}, target)} == found


@pytest.mark.parametrize("device", ["npu", "hetero:gpu,npu", "hetero:npu,cpu"])
def test_the_doctor_says_of_fp32_on_an_npu_what_compile_says(device: str) -> None:
    pytest.importorskip("openvino")
    told = [f for f in findings({"main": GRAPHS["shape/scalar"]}, f"openvino:{device}") if f.check == "precision"]
    said = registry.get("backends", "openvino").unsupported(Program({}), Options(device))
    assert [(f.reason, f.hint) for f in told] == [(r.reason, r.hint) for r in said]
    ((reason, hint),) = {(f.reason, f.hint) for f in told}
    assert reason == "the NPU does not compute in fp32; OpenVINO would fall back to fp16"
    limits = [f"{name} (parity from {Limits.of(name).sqnr_db:g} dB)" for name in ("fp16", "int8")]
    assert hint == f"ask for precision {' or '.join(limits)}"
    assert not findings({"main": GRAPHS["shape/scalar"]}, f"openvino:{device}", "fp16")
