"""A model by the name of its configuration."""

import torch

from edgeattn import models


def built(name):
    family, config = models.find(name)
    return family.build(**config.options).eval()


def sketched(name):
    """Shapes alone: a large network costs no time on the meta device."""
    with torch.device("meta"):
        return built(name)
