import numpy as np
import pytest
import torch
from torch.nn import functional

from edgeattn import models, registry
from edgeattn.backends import Options
from edgeattn.export import export
from edgeattn.models import denoiser
from edgeattn.recognise import recognise

pytestmark = pytest.mark.torch


def built(name="cbam_denoiser", **changes):
    family, config = models.find(name)
    return family.build(**{**config.options, **changes}).eval()


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 8), (13, 30), (64, 63)])
def test_takes_any_size_and_gives_it_back(size):
    with torch.no_grad():
        assert built()(rand(2, 3, *size)).shape == (2, 3, *size)


def test_an_odd_picture_is_extended_by_its_last_row_and_column_and_cut_again():
    net, image = built(), rand(1, 3, 13, 30)
    whole = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (0, 0), (0, 3), (0, 2)), mode="edge"))
    with torch.no_grad():
        assert torch.equal(net(image), net(whole)[..., :13, :30])


def test_computes_the_equations_of_its_card():
    net, image = built(depth=1).double(), rand(2, 3, 8, 12).double()
    weights = net.state_dict()

    def conv(name, x, stride=1):
        return functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding=1)

    def block(name, z):
        return z + conv(f"{name}.last", conv(f"{name}.first", z).relu())

    def shuffle(x):
        b, c, h, w = x.shape
        return x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)

    with torch.no_grad():
        e0 = conv("head.0", image - 0.5).relu()
        e1 = block("down1.2", conv("down1.0", e0, 2).relu())
        e2 = block("down2.2", conv("down2.0", e1, 2).relu())
        d2 = net.bottleneck(e2)
        d1 = net.up1.attention(block("up1.blocks.0", (shuffle(conv("up1.up.0", d2)) + e1).relu()))
        d0 = net.up2.attention(block("up2.blocks.0", (shuffle(conv("up2.up.0", d1)) + e0).relu()))
        expected = image + conv("tail", d0)
        found = net(image)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)  # float64


def test_an_untrained_network_is_near_the_identity():
    image = rand(1, 3, 32, 32)
    with torch.no_grad():
        assert 1e-4 < (built("cbam_denoiser_large")(image) - image).abs().mean() < 0.5


def test_the_small_one_fits_a_small_file():
    assert sum(4 * v.numel() for v in built().state_dict().values()) < 2_000_000


@pytest.mark.onnxruntime
@pytest.mark.openvino
def test_an_exported_one_takes_any_batch_height_and_width():
    net = built()
    model = export(denoiser.source(net)).graphs["main"]
    assert [a.kind for a in recognise(model)] == ["cbam"] * 3
    for engine in ("onnxruntime", "openvino"):
        session = registry.get("backends", engine).load(model, Options("cpu"))
        for size in ((1, 3, 1, 1), (3, 3, 9, 14), (2, 3, 12, 7)):  # none of them is a case of the oracle
            image = rand(*size)
            with torch.no_grad():
                expected = net(image).numpy()
            # float32 sums in another order; pictures are of unit size
            np.testing.assert_allclose(session.run({"image": image.numpy()})["restored"], expected, rtol=0, atol=2e-5)
