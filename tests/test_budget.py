"""Where candidates of a search are judged: in the target engine, on training samples that did not calibrate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from onnx import numpy_helper

from edgeattn import backends, budget, decode, registry
from edgeattn.backends import Options
from edgeattn.errors import UsageError
from edgeattn.program import Program
from edgeattn.tasks import ACCURACY, UNSCORED, Batch, Task
from tests.graphs import conv_net

pytestmark = pytest.mark.onnxruntime
IMAGES = np.random.default_rng(0).standard_normal((200, 3, 8, 8)).astype(np.float32)
FLOAT = Program({"main": conv_net()})


def _features(images: np.ndarray) -> np.ndarray:
    return decode.run(backends.oracle(FLOAT), None, {"image": images})["features"]


def _classes(features: np.ndarray) -> np.ndarray:
    """The feature that is furthest above its usual level."""
    return (features - _features(IMAGES).mean(axis=0)).argmax(-1)


def _train(samples: int | None, batch: int) -> Iterator[Batch]:
    """Images whose class is what the float net says."""
    for start in range(0, min(samples or len(IMAGES), len(IMAGES)), batch):
        images = IMAGES[start : start + batch]
        yield Batch({"image": images}, _classes(_features(images)))


def _test(_samples: int | None, _batch: int) -> Iterator[Batch]:
    raise AssertionError("the test split was looked at")


TASK = Task(
    name="toy",
    metric=ACCURACY,
    train=_train,
    test=_test,
    score=lambda outputs, targets: (_classes(outputs["features"]) == targets).astype(np.float64),
    assets=dict,
)


def judge(task: Task | None = TASK, calibrated: int = 100, program: Program = FLOAT):
    return budget.judge("onnxruntime", Options(threads=1), program, task, calibrated)


def test_the_drop_is_measured_on_training_samples_behind_those_that_calibrate() -> None:
    made = judge()
    assert made.drop is not None
    lost = made.drop(FLOAT)
    assert (lost.share, lost.reference, lost.figure, lost.samples) == (0, 1, 1, 100)
    noisy = conv_net()
    weight = next(t for t in noisy.graph.initializer if t.name == "w1")
    noise = 0.05 * np.random.default_rng(2).standard_normal((16, 3, 3, 3)).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + noise, "w1"))
    other = made.drop(Program({"main": noisy}))
    assert 0 < other.share < 1
    assert other.share == pytest.approx(1 - other.figure)
    assert other.ci95[0] < other.share < other.ci95[1]
    assert "behind the first 100" in made.task


def test_too_few_samples_left_is_told() -> None:
    made = judge(calibrated=190)
    assert made.drop is not None
    with pytest.raises(UsageError, match="task toy: only 10 training samples are left beside the 190 that calibrate"):
        made.drop(FLOAT)


def test_a_task_without_a_metric_measures_no_drop() -> None:
    assert judge(replace(TASK, metric=UNSCORED)).drop is None
    assert judge(None).drop is None


def test_a_program_of_a_fixed_batch_is_fed_that_many() -> None:
    fixed = conv_net()
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 5
    made = judge(program=Program({"main": fixed}))
    assert made.drop is not None
    assert made.drop(Program({"main": fixed})).samples == 100


def test_an_engine_that_is_not_here_is_named_and_the_one_that_calibrates_judges(monkeypatch) -> None:
    engine = registry.get("backends", "onnxruntime")
    assert judge().target == f"onnxruntime {engine.probe().version}"
    monkeypatch.setattr(type(engine), "probe", lambda self: backends.Availability(False))
    monkeypatch.setattr(budget, "oracle", lambda program: {"main": "opened by it"})
    made = judge()
    assert made.target == "the engine that calibrates (onnxruntime does not run here)"
    assert made.opener(FLOAT) == {"main": "opened by it"}
