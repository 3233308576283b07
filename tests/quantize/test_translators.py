"""INT8 of wired programs: calibrated through their decode loop, after the keys have left the step."""

from __future__ import annotations

import functools

import pytest

from edgeattn import backends, decode, models, registry, weights
from edgeattn.backends import Options
from edgeattn.harness.task import scores
from edgeattn.program import Case
from edgeattn.quantize import Settings, forms, quantize

pytestmark = [pytest.mark.torch, pytest.mark.onnxruntime, pytest.mark.slow]

NAMES = ["bahdanau_numbers", "bahdanau_words", "luong_dates", "luong_local_dates"]
SAMPLES = 500


@functools.lru_cache(maxsize=1)  # the engines of one model follow each other
def rewritten(name):
    from edgeattn.export import export
    from edgeattn.rewrite import rewrite

    family, config = models.find(name)
    module = family.build(**config.options).eval()
    weights.load(module, config.weights)
    return rewrite(export(family.source(module)), backends.oracle, also=forms("int8-static")), registry.get(
        "tasks", config.task
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.openvino)])
@pytest.mark.parametrize("scheme", ["int8-static", "int8-dynamic", "int8-weights"])
def test_a_translator_keeps_its_exact_match_and_its_step_runs_in_int8(name, engine, scheme, tmp_path):
    program, task = rewritten(name)
    assert "step.memory_keys" in program.wiring.feeds
    backend = registry.get("backends", engine)
    data = (Case("real", batch.feeds) for batch in task.train(200, 50))
    quantized = quantize(program, scheme, backends.oracle, data, Settings(qdq=backend.qdq))

    def figure(sessions, wiring):
        return scores(lambda b: decode.run(sessions, wiring, b.feeds), task, SAMPLES, 100).scores.mean()

    options = Options("cpu", precision="int8", threads=1)
    built = backend.compile(quantized, options, tmp_path)
    sessions = {graph: backend.open(tmp_path / file, options) for graph, file in built.files.items()}
    assert figure(backends.oracle(program), program.wiring) - figure(sessions, quantized.wiring) <= 0.005
    step = built.effective["step"]["precision"]
    # all but the output layer, which is narrower than INT8 pays for, and the alignment's score
    assert step["int8_macs"] / step["macs"] > 0.9
