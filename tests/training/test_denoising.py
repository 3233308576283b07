import pytest
import torch

from edgeattn import models, training
from edgeattn.tasks import denoising
from edgeattn.training import denoising as recipe

pytestmark = pytest.mark.torch


def built():
    family, config = models.find("cbam_denoiser")
    return family.build(**{**config.options, "channels": 8})


def test_a_short_training_repeats_exactly():
    nets = [built() for _ in range(2)]
    for net in nets:
        recipe.fit(net, steps=3, batch=2, side=16)
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["tail.weight"], built().tail.weight)


def test_a_short_training_already_removes_noise():
    net = built()
    recipe.fit(net, steps=150, batch=4, side=32)
    reached = training.evaluate(models.find("cbam_denoiser")[0], net.eval(), denoising.TASK)
    assert reached > 22.5  # the noisy crops have 20.98 dB
