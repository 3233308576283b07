"""OpenVINO's device names, those that were removed, and what is built for a device that is not here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")

from edgeattn import backends, decode, registry, storage
from edgeattn.backends import Options
from edgeattn.backends._openvino_devices import look
from edgeattn.errors import UsageError
from edgeattn.harness.precision import audit
from edgeattn.opened import engine as open_engine
from edgeattn.program import Program
from edgeattn.report import gates
from edgeattn.target import parse
from tests.graphs import conv_net

pytestmark = pytest.mark.openvino
BACKEND = registry.get("backends", "openvino")


@pytest.mark.parametrize(
    ("target", "device"),
    [
        ("openvino", "cpu"),
        ("openvino:GPU.1", "gpu.1"),
        ("openvino:auto", "auto"),
        ("openvino:hetero:NPU,cpu", "hetero:npu,cpu"),
        ("openvino:auto:gpu,cpu,gpu", "auto:gpu,cpu"),
    ],
)
def test_a_target_names_a_device_or_a_list(target: str, device: str) -> None:
    assert parse(target) == ("openvino", device)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("openvino:myriad", "'myriad' was removed in OpenVINO 2023.0; today's VPU is the NPU of a Core Ultra"),
        ("openvino:VPU", "take openvino:npu"),
        ("openvino:hetero:hddl,cpu", "'hddl' was removed in OpenVINO 2023.0"),
        ("openvino:gna", "'gna' was removed in OpenVINO 2024.0"),
        ("openvino:npx", "'openvino' has no device 'npx'; did you mean 'npu'?"),
        ("openvino:hetero", "name them: openvino:hetero:gpu,cpu"),
        ("openvino:gpu,cpu", "for several: openvino:hetero:gpu,cpu or :auto:gpu,cpu"),
    ],
)
def test_a_name_that_is_none_is_told_in_one_line(target: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(target)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["cpu", "gpu", "npu", "gpu.7", "nonsense"])
def test_looking_for_a_device_answers_whatever_is_here(name: str) -> None:
    found = look(name)
    assert found.title if found.here else found.why and found.hint
    assert "\n" not in found.why


def missing(device: str) -> bool:
    return not BACKEND.executes(Options(device)).available


@pytest.mark.skipif(not missing("npu"), reason="an NPU is here")
def test_the_ir_of_a_missing_device_is_built_judged_on_the_cpu_and_labelled(tmp_path: Path) -> None:
    program = storage.with_reference(Program({"main": fixed()}), backends.oracle)
    options = Options("npu", "fp16")
    assert BACKEND.unsupported(program, options) == []
    built = BACKEND.compile(program, options, tmp_path)
    told = built.effective["main"]
    assert (
        "compile_model('main.xml', 'NPU', {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f16'})"
        in (told["compile_there"])
    )
    ran = audit("fp16", built.effective)
    assert ran.effective == gates.NOT_COMPILED
    assert gates.precision(ran).verdict == "n/a"  # neither passed nor failed: nobody compiled it
    sessions, place = open_engine(BACKEND, built)
    assert place == "its files on the CPU in fp32"
    assert program.reference is not None
    case = program.reference.cases[0]
    answer = decode.run(sessions, None, case.feeds)["features"]
    # FP32 sums of 144 products of unit size: 144 · 6e-8 · a few.
    np.testing.assert_allclose(answer, case.outputs["features"], atol=2e-5, rtol=0)


def fixed() -> object:
    model = conv_net()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return model


def test_an_npu_refuses_dynamic_shapes_with_the_flags_that_mend_them() -> None:
    (refusal,) = BACKEND.unsupported(Program({"main": conv_net()}), Options("npu", "fp16"))
    assert "an NPU takes static shapes, and batch is dynamic" in refusal.reason
    assert "--fix batch=1" in refusal.hint


@pytest.mark.parametrize("device", ["auto", "auto:npu,cpu"])
def test_auto_says_what_it_ran_on_and_what_was_missing(device: str, tmp_path: Path) -> None:
    program = Program({"main": fixed()})
    told = BACKEND.compile(program, Options(device, threads=1), tmp_path).effective["main"]
    if look("npu").here or look("gpu").here:
        pytest.skip("more than a CPU is here")
    assert told["device"] == "cpu"
    assert told["settings"] == {"threads": 1, "inference_precision": "f32", "hint": "LATENCY"}
    assert set(told.get("absent", ())) == ({"npu"} if "npu" in device else set())
    assert told["precision"]["label"] == "fp32"


def test_hetero_says_how_many_layers_each_device_is_given(tmp_path: Path) -> None:
    # A list of the one device that is surely here: a target would have to name two.
    told = BACKEND.compile(Program({"main": fixed()}), Options("hetero:cpu", threads=1), tmp_path).effective["main"]
    assert told["device"] == "cpu"
    assert list(told["placement"]["layers"]) == ["cpu"]
    assert told["placement"]["layers"]["cpu"] >= 2
    assert told["placement"]["elsewhere"] == {}


def test_a_hint_is_handed_over_and_read_back(tmp_path: Path) -> None:
    built = BACKEND.compile(Program({"main": fixed()}), Options(hint="throughput", threads=1), tmp_path)
    assert built.effective["main"]["settings"]["hint"] == "THROUGHPUT"
