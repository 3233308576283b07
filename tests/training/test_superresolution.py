import pytest
import torch

from edgeattn import models, training
from edgeattn.tasks import superresolution
from edgeattn.training import superresolution as recipe

pytestmark = pytest.mark.torch


def built(**changes):
    family, config = models.find("cbam_superres")
    return family.build(**{**config.options, "blocks": 1, "channels": 8, **changes})


def test_a_short_training_repeats_exactly_and_lowers_the_loss(monkeypatch):
    losses = []

    def listening(net, stream, *rest):
        optimise(net, (losses.append(loss.item()) or loss for loss in stream), *rest)

    optimise = recipe.optimise
    monkeypatch.setattr(recipe, "optimise", listening)
    nets = [built() for _ in range(2)]
    for net in nets:
        recipe.fit(net, steps=30, batch=4, side=24)
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert losses[:30] == losses[30:]
    assert sum(losses[25:30]) < sum(losses[:5])


def test_a_short_training_beats_no_training_on_held_out_crops():
    family, _ = models.find("cbam_superres")
    net = built()
    before = training.evaluate(family, net.eval(), superresolution.TASK)
    recipe.fit(net, steps=40, batch=4, side=24)
    assert training.evaluate(family, net.eval(), superresolution.TASK) > before
