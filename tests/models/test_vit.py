import math

import numpy as np
import pytest
import torch

from edgeattn import models
from edgeattn.errors import UsageError
from edgeattn.models import vit

pytestmark = pytest.mark.torch

erf = np.vectorize(math.erf)

SMALL = {
    "size": 6, "patch": 2, "channels": 2, "width": 8, "layers": 2, "heads": 2, "hidden": 12, "classes": 5,
}  # fmt: skip
# ViT-B/16 as published; S and Ti as DeiT's, all with the head for 1,000 classes.
PARAMETERS = {"vit_base": 86_567_656, "vit_small": 22_050_664, "vit_tiny": 5_717_416}


def shaken(net):
    """Gains and biases start at 1 and 0, where a mistake in them would not show."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in net.parameters():
            value += 0.2 * torch.randn(value.shape)
    return net.double().eval()


def normed(x, gain, bias):
    centred = x - x.mean(-1, keepdims=True)
    return gain * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) + bias


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def numpy_vit(net, image, patch, heads):
    """Logits of one image ``(C, H, W)`` from equations 1 to 4, in float64."""
    p = {name: value.detach().numpy() for name, value in net.named_parameters()}

    def mapped(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def layer_norm(name, x):
        return normed(x, p[f"{name}.weight"], p[f"{name}.bias"])

    channels, height, width = image.shape
    embedding = p["embed.weight"].reshape(len(p["embed.bias"]), -1).T  # (C·P², D), channels first
    z = [p["class_token"][0, 0]]
    for top, left in np.ndindex(height // patch, width // patch):
        square = image[:, top * patch : (top + 1) * patch, left * patch : (left + 1) * patch]
        z.append(square.reshape(channels * patch**2) @ embedding + p["embed.bias"])
    z = np.array(z) + p["positions"][0]
    for index in range(len(net.layers)):
        name, y = f"layers.{index}", layer_norm(f"layers.{index}.attention_norm", z)
        q, k, v = (np.split(mapped(f"{name}.attention.{part}", y), heads, 1) for part in ("query", "key", "value"))
        joined = []
        for one, other, value in zip(q, k, v, strict=True):
            exponentials = np.exp(one @ other.T / np.sqrt(one.shape[1]))
            joined.append(exponentials / exponentials.sum(1, keepdims=True) @ value)
        z = z + mapped(f"{name}.attention.output", np.concatenate(joined, 1))
        hidden = gelu(mapped(f"{name}.feed_forward.widen", layer_norm(f"{name}.feed_forward_norm", z)))
        z = z + mapped(f"{name}.feed_forward.narrow", hidden)
    return mapped("head", layer_norm("norm", z[0]))


def test_equals_equations_1_to_4_in_float64():
    net, images = shaken(vit.Vit(**SMALL)), np.random.default_rng(0).standard_normal((3, 2, 6, 6))
    expected = np.array([numpy_vit(net, image, SMALL["patch"], SMALL["heads"]) for image in images])
    actual = net(torch.from_numpy(images)).detach().numpy()
    # float64 on both sides: only the order of sums differs
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name):
    family, config = models.find(name)
    with torch.device("meta"):
        net = family.build(**config.options)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]


def test_the_order_of_the_patches_matters_through_their_positions_alone():
    net, image = shaken(vit.Vit(**SMALL)), torch.randn(1, 2, 6, 6).double()
    turned = image.roll(2, 3)  # whole patches change places
    assert not torch.allclose(net(turned), net(image))
    with torch.no_grad():
        net.positions.zero_()
    # float64: the same sums in another order
    torch.testing.assert_close(net(turned), net(image), rtol=1e-11, atol=1e-12)


def test_an_untrained_network_keeps_its_activations_near_unit_size():
    family, config = models.find("vit_tiny")
    net, sizes = family.build(**config.options), []
    for layer in net.layers:
        layer.register_forward_hook(lambda module, inputs, output: sizes.append(output.std().item()))
    with torch.no_grad():
        net(torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert all(0.3 < size < 5 for size in sizes), sizes


def test_an_image_that_does_not_split_into_patches_is_refused():
    with pytest.raises(UsageError, match="an image of 30 does not split into patches of 4"):
        vit.Vit(size=30, patch=4)
