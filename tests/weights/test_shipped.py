"""The checkpoints in the package reach the figures they claim, through eager PyTorch."""

import numpy as np
import pytest
import torch

from edgeattn import decode, models, registry, weights
from edgeattn.export import eager_sessions

pytestmark = pytest.mark.torch

SHIPPED = sorted(name for name, (_, config) in models.configurations().items() if config.weights)
# What each task's figure must reach. In dB: 1 above bicubic interpolation (24.80), 3 above the best blur (27.46).
# Perplexity must stay below: the best n-gram, which sees four characters, reaches 3.75.
FLOORS = {
    "digits": 0.985,
    "dates": 0.99,
    "numbers": 0.99,
    "words": 0.99,
    "superresolution": 25.8,
    "denoising": 30.46,
    "text": 3.4,
}
PART = {"dates": 1000, "numbers": 1000, "words": 1000}  # samples of the tasks whose whole split takes long
# One of 450 samples may sit on the edge; decibels hang on no edge, and float32 sums in another order move them less.
SAME = {"share": 1e-3, "dB": 2e-4}


def loaded(name):
    family, config = models.find(name)
    module = family.build(**config.options)
    metadata = weights.load(module, config.weights)
    return family.source(module.eval()), config, metadata


def reaches_its_floor(task, figure):
    floor = FLOORS[task.name]
    return figure >= floor if task.metric.higher_is_better else figure <= floor


def test_every_configuration_with_weights_ships_them_and_nothing_else_is_shipped():
    assert weights.names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_checkpoint_is_small_and_says_where_it_comes_from(name):
    _, config, metadata = loaded(name)
    assert weights.locate(name).stat().st_size < 2_000_000
    task = registry.get("tasks", config.task)
    assert metadata["task"] == config.task
    assert metadata["metric"] == task.metric.name
    assert reaches_its_floor(task, float(metadata["score"]))
    assert metadata.keys() >= {"seed", "torch", "source_sha256"}


@pytest.mark.parametrize("name", SHIPPED)
def test_reaches_its_figure_on_data_it_was_not_trained_on(name):
    source, config, metadata = loaded(name)
    task = registry.get("tasks", config.task)
    samples = PART.get(config.task)
    sessions = eager_sessions(source)
    scores = [
        task.score(decode.run(sessions, source.wiring, batch.feeds, batch.tokens), batch.targets)
        for batch in task.test(samples, 250)
    ]
    figure = task.metric.figure(float(np.concatenate(scores).mean()))
    assert reaches_its_floor(task, figure)
    if samples is None and config.task != "text":  # another Python's language reference is another text
        assert figure == pytest.approx(float(metadata["score"]), abs=SAME[task.metric.unit])


@pytest.mark.parametrize("name", SHIPPED)
def test_holds_only_finite_values(name):
    tensors, _ = weights.read(weights.locate(name))
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values())
