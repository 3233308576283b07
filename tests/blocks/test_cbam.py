import numpy as np
import pytest
import torch

from edgeattn.blocks.cbam import ORDERS, Cbam
from edgeattn.errors import UsageError

pytestmark = pytest.mark.torch


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def channel_mask(x, weights):
    w0, b0, w1, b1 = (weights[f"channel.mlp.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias"))

    def mlp(z):
        return np.maximum(z @ w0.T + b0, 0) @ w1.T + b1

    return sigmoid(mlp(x.mean((2, 3))) + mlp(x.max((2, 3))))[:, :, None, None]


def spatial_mask(x, weights):
    """One output pixel at a time."""
    kernel = weights["spatial.conv.weight"][0]
    pooled = np.pad(np.stack((x.max(1), x.mean(1)), 1), ((0, 0), (0, 0), (3, 3), (3, 3)))
    response = np.empty((x.shape[0], 1, *x.shape[2:]))
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            response[:, 0, i, j] = (pooled[:, :, i : i + 7, j : j + 7] * kernel).sum((1, 2, 3))
    deviation = np.sqrt(weights["spatial.norm.running_var"] + 1e-5)
    normal = (response - weights["spatial.norm.running_mean"]) / deviation
    return sigmoid(normal * weights["spatial.norm.weight"] + weights["spatial.norm.bias"])


def cbam(x, weights, order):
    """The whole block from its state_dict, in float64."""
    if order == "parallel":
        return x * channel_mask(x, weights) * spatial_mask(x, weights)
    masks = [channel_mask, spatial_mask] if order == "channel-first" else [spatial_mask, channel_mask]
    for mask in masks:
        x = x * mask(x, weights)
    return x


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(2, 32, 8, 5), (1, 16, 1, 1), (3, 8, 7, 7)])
def test_equals_the_equations_in_float64(shape, order):
    torch.manual_seed(0)
    block = Cbam(shape[1], reduction=8, order=order).double().eval()
    block.spatial.norm.running_mean.fill_(-0.4)
    block.spatial.norm.running_var.fill_(2.5)
    x = torch.randn(shape, dtype=torch.float64)
    expected = cbam(x.numpy(), {name: value.numpy() for name, value in block.state_dict().items()}, order)
    # float64 on both sides: only the order of sums differs
    np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=1e-11, atol=1e-13)


def test_every_order_has_the_same_parameters_and_takes_the_same_checkpoint():
    checkpoint = Cbam(64).state_dict()
    # the MLP of ``cam``, the 7x7 convolution over two planes and the norm of ``sam``
    assert sum(p.numel() for p in Cbam(64).parameters()) == (2 * 64 * 4 + 4 + 64) + (98 + 2)
    for order in ORDERS:
        Cbam(64, order=order).load_state_dict(checkpoint)


def test_the_default_order_is_channel_first_and_the_others_differ_from_it():
    torch.manual_seed(0)
    first, x = Cbam(16).eval(), torch.randn(2, 16, 6, 6)
    results = {}
    for order in ORDERS:
        block = Cbam(16, order=order).eval()
        block.load_state_dict(first.state_dict())
        results[order] = block(x)
    assert torch.equal(first(x), results["channel-first"])
    assert not torch.allclose(results["spatial-first"], results["channel-first"])
    assert not torch.allclose(results["parallel"], results["channel-first"])


def test_an_unknown_order_names_the_known_ones():
    with pytest.raises(UsageError, match="unknown CBAM order 'both'; known: channel-first, spatial-first, parallel"):
        Cbam(8, order="both")


def test_the_spatial_half_looks_at_the_features_the_channel_half_has_gated():
    block, seen = Cbam(16).eval(), []
    block.spatial.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 16, 4, 4)
    block(x)
    assert torch.equal(seen[0], block.channel(x))


def test_both_masks_can_be_read_by_hooks():
    block, seen = Cbam(16).eval(), {}
    for half in ("channel", "spatial"):
        gate = getattr(block, half).gate
        gate.register_forward_hook(lambda module, inputs, output, half=half: seen.update({half: tuple(output.shape)}))
    block(torch.randn(2, 16, 6, 7))
    assert seen == {"channel": (2, 16), "spatial": (2, 1, 6, 7)}
