import numpy as np
import pytest
import torch

from edgeattn import models, registry
from edgeattn.backends import Options
from edgeattn.export import export
from edgeattn.models import superres
from edgeattn.models._macs import count_macs
from edgeattn.tasks import superresolution

pytestmark = pytest.mark.torch


def built(name="cbam_superres", **changes):
    family, config = models.find(name)
    return family.build(**{**config.options, **changes}).eval()


def rand(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_without_attention_the_large_one_has_the_published_number_of_parameters():
    # EDSR-baseline ×2: head, 16 blocks of two convolutions, body, one upsampling, tail; 64 channels, with biases
    layers = [(3, 64), *[(64, 64)] * (2 * 16 + 1), (64, 256), (64, 3)]
    counted = sum(9 * inputs * outputs + outputs for inputs, outputs in layers)
    net = built("cbam_superres_x2", attention="none")
    assert sum(p.numel() for p in net.parameters()) == counted == 1_369_859


def test_attention_costs_little():
    plain, gated = (
        count_macs(built("cbam_superres_x2", attention=kind).to("meta"), torch.empty(1, 3, 48, 48, device="meta"))
        for kind in ("none", "cbam")
    )
    assert 1 < gated / plain < 1.01


def test_the_skip_is_bicubic_interpolation_up_to_the_border():
    image = rand(2, 3, 7, 10)
    found = superres.BicubicUpscale()(image).numpy()
    # float32 sums of 25 products of unit size
    np.testing.assert_allclose(found, superresolution.upscaled(image.numpy()), rtol=0, atol=1e-6)


def test_the_skip_is_no_parameter_and_no_part_of_a_checkpoint():
    net = built()
    assert not any("skip" in name for name in net.state_dict())
    assert not any("skip" in name for name, _ in net.named_parameters())


def recomputed(net, image):
    """The card's equations in float64, with convolutions as sums over shifted images."""
    weights = {k: v.double().numpy() for k, v in net.state_dict().items()}

    def conv(name, x):
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        h, w = x.shape[-2:]
        shifted = [
            np.einsum("oc,bchw->bohw", kernel[:, :, i, j], padded[:, :, i : i + h, j : j + w])
            for i in range(3)
            for j in range(3)
        ]
        return sum(shifted) + bias[:, None, None]

    def shuffle(x):
        b, c, h, w = x.shape
        return x.reshape(b, c // 4, 2, 2, h, w).transpose(0, 1, 4, 2, 5, 3).reshape(b, c // 4, 2 * h, 2 * w)

    x = image.double().numpy()
    shallow = features = conv("head", x - 0.5)
    for i in range(len(net.blocks)):
        inner = np.maximum(conv(f"blocks.{i}.first", features), 0)
        features = features + conv(f"blocks.{i}.last", inner)
    long = shallow + conv("body", features)
    up = superresolution.bicubic(x.shape[2], 2 * x.shape[2]) @ x @ superresolution.bicubic(x.shape[3], 2 * x.shape[3]).T
    return up + conv("tail", shuffle(conv("up.0", long)))


def test_computes_the_equations_of_its_card():
    net = built(attention="none", blocks=3, channels=8).double()
    image = rand(2, 3, 5, 7)
    with torch.no_grad():
        found = net(image.double()).numpy()
    # float64 but for the skip's kernel, which is rounded to float32: 25 products of unit size
    np.testing.assert_allclose(found, recomputed(net, image), rtol=0, atol=1e-6)


def test_the_attention_block_weighs_what_the_branch_adds():
    block, seen = built().blocks[0], {}
    block.last.register_forward_hook(lambda module, inputs, output: seen.update(branch=output))
    block.attention.register_forward_hook(lambda module, inputs, output: seen.update(given=inputs[0], gated=output))
    x = rand(1, 32, 6, 6)
    y = block(x)
    assert seen["given"] is seen["branch"]
    assert torch.equal(y, x + seen["gated"])


def test_an_untrained_network_gives_about_the_bicubic_image():
    image = rand(1, 3, 24, 24)
    with torch.no_grad():
        found = built("cbam_superres_x2")(image).numpy()
    assert 1e-4 < np.abs(found - superresolution.upscaled(image.numpy())).mean() < 0.5


def test_the_small_one_fits_a_small_file():
    assert sum(4 * v.numel() for v in built().state_dict().values()) < 2_000_000


@pytest.mark.onnxruntime
@pytest.mark.openvino
def test_an_exported_one_takes_any_batch_height_and_width():
    net = built()
    model = export(superres.source(net)).graphs["main"]
    assert {"DepthToSpace", "Pad"} <= {node.op_type for node in model.graph.node}
    for engine in ("onnxruntime", "openvino"):
        session = registry.get("backends", engine).load(model, Options("cpu"))
        for size in ((1, 3, 1, 1), (3, 3, 9, 14)):  # none of them is a case of the oracle
            image = rand(*size)
            with torch.no_grad():
                expected = net(image).numpy()
            # float32 sums in another order; pictures are of unit size
            np.testing.assert_allclose(session.run({"image": image.numpy()})["restored"], expected, rtol=0, atol=2e-5)
