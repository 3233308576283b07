"""gate=auto: what is measured decides, and what was decided is told with its figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgeattn import backends, decode, gating, registry
from edgeattn.backends import Availability, Options
from edgeattn.cases import answered
from edgeattn.errors import MissingPackage, UsageError
from edgeattn.gating import GateChoice
from edgeattn.program import Case, Program
from edgeattn.quantize import Settings, quantize
from edgeattn.report.schema import StageParity
from tests.conftest import edgeattn
from tests.graphs import conv_net
from tests.quantize.test_quantize import residual_net

RNG = np.random.default_rng(0)
CASES = [Case(f"real-{i}", {"image": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)}) for i in range(3)]


def answered_program(graph: onnx.ModelProto) -> Program:
    plain = Program({"main": graph})
    sessions = backends.oracle(plain)
    reference = answered(CASES, "source graph", lambda case: decode.run(sessions, None, case.feeds))
    return Program({"main": graph}, reference=reference)


def settled(program: Program, engine: str = "onnxruntime") -> Program:
    backend = registry.get("backends", engine)

    def make(gate: str) -> Program:
        return quantize(program, "int8-static", backends.oracle, CASES, Settings(gate, qdq=backend.qdq))

    return gating.settled(make, program, backend, Options("cpu", "int8", threads=1))


@pytest.mark.onnxruntime
def test_the_faster_form_that_answers_well_is_taken_and_its_figures_are_in_the_history() -> None:
    result = settled(answered_program(residual_net(attention=True)))
    notes = result.history[-1].notes
    told = notes[gating.NOTE]
    assert notes["gate"] == told["gate"]
    assert set(told["sqnr_db"]) == {"float", "int8"}
    assert all(db is not None for db in told["sqnr_db"].values())
    measured = told["latency"]
    assert (told["gate"] == "int8") == bool(measured and measured["keep"])
    assert told["said"].startswith(f"gate=auto took {told['gate']}: ")
    scales = {t.name for t in result.graphs["main"].graph.initializer}
    assert ("gate_scale" in scales) == (told["gate"] == "int8")


@pytest.mark.onnxruntime
def test_without_a_gate_nothing_is_measured() -> None:
    told = settled(answered_program(conv_net())).history[-1].notes[gating.NOTE]
    assert (told["gate"], told["why"], told["latency"]) == ("float", "the program has no attention gate", None)


def judged(sqnr: float, verdict: str = "pass") -> StageParity:
    figures = {"max_abs": 0.1, "mean_abs": 0.1, "sqnr_db": sqnr, "limit": "20 dB"}
    output = {**figures, "verdict": verdict, "worst_case": "real-0", "observed": ""}
    return StageParity.model_validate({"stage": "gate", "case_count": 1, "outputs": {"y": output}})


@pytest.mark.parametrize(
    ("float_db", "int8_db", "verdict", "why"),
    [
        (45.0, 31.0, "pass", ""),  # past 30 dB a loss is of no account
        (29.0, 26.5, "warn", ""),
        (29.0, 25.5, "warn", "INT8 gates lose 3.5 dB"),
        (22.0, 19.5, "fail", "INT8 gates fail parity on y"),
    ],
)
def test_int8_gates_may_lose_three_decibels_or_what_is_above_thirty(
    float_db: float, int8_db: float, verdict: str, why: str
) -> None:
    assert gating._too_much(judged(int8_db, verdict), {"float": float_db, "int8": int8_db}) == why


def test_a_machine_that_does_not_settle_is_told() -> None:
    choice = GateChoice(
        "float", "INT8 gates on openvino:cpu 1.010x (0.9 to 1.1): not settled: busy", None, {"int8": 31.0}
    )
    assert str(choice).endswith("not settled: busy (int8 31.0 dB)")


@pytest.mark.onnxruntime
def test_an_engine_that_is_not_here_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = registry.get("backends", "openvino")
    monkeypatch.setattr(type(backend), "probe", lambda self: Availability(False, why="not installed"))
    with pytest.raises(MissingPackage, match=r"gate=auto measures in it.*pip install 'edgeattn\[openvino\]'") as told:
        gating.settled(lambda gate: pytest.fail("quantized"), Program({}), backend, Options())
    assert told.value.exit_code == 4


@pytest.mark.onnxruntime
def test_auto_on_the_command_line_says_what_it_took(tmp_path: Path) -> None:
    onnx.save(residual_net(attention=True), tmp_path / "m.onnx")
    np.savez(tmp_path / "calib.npz", image=np.concatenate([case.feeds["image"] for case in CASES]))
    words = ("quantize", tmp_path / "m.onnx", "-o", tmp_path / "q.onnx", "--calib", tmp_path / "calib.npz")
    done = edgeattn(*words, "--gate", "auto", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["gate_choice"]
    assert told["said"] in done.stderr
    assert told["sqnr_db"]["float"] > 20


@pytest.mark.onnxruntime
def test_quantize_itself_has_no_engine_to_measure_in() -> None:
    with pytest.raises(UsageError, match="unknown gate policy 'auto'"):
        quantize(Program({"main": conv_net()}), "int8-static", backends.oracle, CASES, Settings("auto"))
