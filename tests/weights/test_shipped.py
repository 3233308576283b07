"""The checkpoints in the package reach the figures they claim, through eager PyTorch."""

import numpy as np
import pytest
import torch

from edgeattn import decode, models, registry, weights
from edgeattn.export import eager_sessions

pytestmark = pytest.mark.torch

SHIPPED = sorted(name for name, (_, config) in models.configurations().items() if config.weights)
FLOORS = {"digits": 0.985, "dates": 0.99}


def loaded(name):
    family, config = models.find(name)
    module = family.build(**config.options)
    metadata = weights.load(module, config.weights)
    return family.source(module.eval()), config, metadata


def test_every_configuration_with_weights_ships_them_and_nothing_else_is_shipped():
    assert weights.names() == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_checkpoint_is_small_and_says_where_it_comes_from(name):
    _, config, metadata = loaded(name)
    assert weights.locate(name).stat().st_size < 2_000_000
    assert metadata["task"] == config.task
    assert metadata["metric"] == registry.get("tasks", config.task).metric.name
    assert float(metadata["score"]) >= FLOORS[config.task]
    assert metadata.keys() >= {"seed", "torch", "source_sha256"}


@pytest.mark.parametrize("name", SHIPPED)
def test_reaches_its_figure_on_data_it_was_not_trained_on(name):
    source, config, metadata = loaded(name)
    task = registry.get("tasks", config.task)
    samples = 1000 if config.task == "dates" else None
    sessions = eager_sessions(source)
    scores = [
        task.score(decode.run(sessions, source.wiring, batch.feeds), batch.targets) for batch in task.test(samples, 250)
    ]
    score = np.concatenate(scores).mean()
    assert score >= FLOORS[config.task]
    if samples is None:
        assert score == pytest.approx(float(metadata["score"]), abs=1e-3)  # one sample of 450 may sit on the edge


@pytest.mark.parametrize("name", SHIPPED)
def test_holds_only_finite_values(name):
    tensors, _ = weights.read(weights.locate(name))
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values())
