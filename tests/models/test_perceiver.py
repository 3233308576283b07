import math

import numpy as np
import pytest
import torch

from edgeattn import models
from edgeattn.models import perceiver
from edgeattn.models._macs import count_macs

pytestmark = pytest.mark.torch

erf = np.vectorize(math.erf)

SMALL = {
    "size": 4, "channels": 2, "bands": 3, "latents": 3, "width": 8, "reads": 3, "layers": 2, "heads": 2, "classes": 5,
}  # fmt: skip
# The paper gives 44.9 M and 707.2 GFLOPs for its ImageNet model.
PARAMETERS = {"perceiver_imagenet": 44_912_254, "perceiver_small": 2_272_380}


@pytest.fixture
def double():
    """Build in float64, so that the Fourier features are not rounded either."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def shaken(net):
    """Gains and biases start at 1 and 0, where a mistake in them would not show."""
    torch.manual_seed(1)
    with torch.no_grad():
        for value in net.parameters():
            value += 0.2 * torch.randn(value.shape)
    return net.eval()


def features(size, bands, row, column):
    """Section 3.2 for one pixel: each coordinate, its sines, its cosines."""
    found = []
    for pixel in (row, column):
        x = -1 + 2 * pixel / (size - 1)
        frequencies = [1 + (size / 2 - 1) * k / (bands - 1) for k in range(bands)]
        found += [x, *(np.sin(np.pi * f * x) for f in frequencies), *(np.cos(np.pi * f * x) for f in frequencies)]
    return found


def layer_norm(p, name, x):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]


def mapped(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def attention(p, name, x, memory, heads):
    q = np.split(mapped(p, f"{name}.query", x), heads, 1)
    k, v = (np.split(mapped(p, f"{name}.{part}", memory), heads, 1) for part in ("key", "value"))
    joined = []
    for one, other, value in zip(q, k, v, strict=True):
        exponentials = np.exp(one @ other.T / np.sqrt(one.shape[1]))
        joined.append(exponentials / exponentials.sum(1, keepdims=True) @ value)
    return mapped(p, f"{name}.output", np.concatenate(joined, 1))


def dense(p, norm, name, x):
    hidden = mapped(p, f"{name}.widen", layer_norm(p, norm, x))
    return x + mapped(p, f"{name}.narrow", hidden * (1 + erf(hidden / np.sqrt(2))) / 2)


def numpy_perceiver(net, image):
    """Logits of one image ``(C, H, W)`` from the card's equations, in float64."""
    p = {name: value.detach().numpy() for name, value in net.named_parameters()}
    pixels = [(row, column) for row in range(SMALL["size"]) for column in range(SMALL["size"])]
    memory = np.array([[*image[:, r, c], *features(SMALL["size"], SMALL["bands"], r, c)] for r, c in pixels])
    x = p["first.latents"]
    for turn in range(SMALL["reads"]):
        read, after = ("again", "again_dense") if turn else ("first.cross", "first_dense")
        queries, keys = layer_norm(p, f"{read}.norm", x), layer_norm(p, f"{read}.memory_norm", memory)
        x = dense(p, f"{after}.norm", f"{after}.feed_forward", x + attention(p, f"{read}.attention", queries, keys, 1))
        for index in range(SMALL["layers"]):
            name, y = f"think.{index}", layer_norm(p, f"think.{index}.attention_norm", x)
            x = x + attention(p, f"{name}.attention", y, y, SMALL["heads"])
            x = dense(p, f"{name}.feed_forward_norm", f"{name}.feed_forward", x)
    return mapped(p, "head", x.mean(0))


def test_equals_the_equations_in_float64(double):
    net, images = shaken(perceiver.Perceiver(**SMALL)), np.random.default_rng(0).standard_normal((3, 2, 4, 4))
    expected = np.array([numpy_perceiver(net, image) for image in images])
    actual = net(torch.from_numpy(images)).detach().numpy()
    # float64 on both sides: only the order of sums differs, over nine residual sums
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("size", "bands"), [(2, 2), (5, 3), (32, 8)])
def test_fourier_features_equal_their_formula(size, bands):
    expected = [features(size, bands, row, column) for row in range(size) for column in range(size)]
    # float64 on both sides; angles up to 16 π are rounded once or twice
    np.testing.assert_allclose(perceiver.fourier(size, bands).numpy(), expected, rtol=0, atol=1e-13)


def test_fourier_features_of_the_paper_are_258_a_pixel_and_all_pixels_differ():
    found = perceiver.fourier(224, 64)
    assert found.shape == (224 * 224, 258)
    assert len(torch.unique(found[:, [0, 129]], dim=0)) == 224 * 224


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_counted_exactly(name):
    family, config = models.find(name)
    with torch.device("meta"):
        net = family.build(**config.options)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]


def test_the_imagenet_model_costs_what_the_paper_says():
    with torch.device("meta"):
        net = perceiver.Perceiver()
    gmacs = count_macs(net, torch.empty(1, 3, 224, 224, device="meta")) / 1e9
    assert 2 * gmacs == pytest.approx(707.2, rel=0.002)  # the paper does not say what it counts beside products


def test_more_reads_cost_one_more_cross_attention_and_no_more_than_that():
    counts = [sum(p.numel() for p in perceiver.Perceiver(**{**SMALL, "reads": n}).parameters()) for n in (1, 2, 3, 8)]
    again = perceiver.Perceiver(**SMALL)
    extra = sum(p.numel() for part in (again.again, again.again_dense) for p in part.parameters())
    assert [count - counts[0] for count in counts] == [0, extra, extra, extra]


def test_every_pixel_and_its_place_matter():
    net, image = perceiver.Perceiver(**SMALL).eval(), torch.randn(1, 2, 4, 4)
    image.requires_grad_()
    net(image)[0, 0].backward()
    assert bool((image.grad != 0).all())
    assert not torch.allclose(net(image.flip(3)), net(image))


def test_the_position_table_is_no_weight():
    net = perceiver.Perceiver(**SMALL)
    assert "features" not in net.state_dict()
    assert torch.equal(net.features[0], perceiver.fourier(4, 3).float())
