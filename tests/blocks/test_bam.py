import numpy as np
import pytest
import torch

from edgeattn.blocks.bam import Bam
from edgeattn.errors import UsageError

pytestmark = pytest.mark.torch


def convolve(x, weight, bias, dilation=1):
    """A zero padded convolution that keeps H and W, one tap at a time."""
    height, width = x.shape[2:]
    reach = dilation * (weight.shape[2] // 2)
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    y = np.zeros((x.shape[0], weight.shape[0], height, width)) + bias[:, None, None]
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            window = padded[:, :, i * dilation : i * dilation + height, j * dilation : j * dilation + width]
            y += np.einsum("bchw,oc->bohw", window, weight[:, :, i, j])
    return y


def normalise(y, w, name):
    """BatchNorm in eval mode of ``(B, C, ...)``."""
    mean, var, scale, shift = (w[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    over = (slice(None), *(None,) * (y.ndim - 2))
    return (y - mean[over]) / np.sqrt(var[over] + 1e-5) * scale[over] + shift[over]


def bam(x, w, dilation):
    """Equations 1 to 4 from the state_dict, in float64."""
    hidden = np.maximum(x.mean((2, 3)) @ w["mlp.0.weight"].T + w["mlp.0.bias"], 0)
    channel = normalise(hidden @ w["mlp.2.weight"].T + w["mlp.2.bias"], w, "channel_norm")
    y = x
    for place, spread in ((0, 1), (2, dilation), (4, dilation)):
        y = np.maximum(convolve(y, w[f"spatial.{place}.weight"], w[f"spatial.{place}.bias"], spread), 0)
    spatial = normalise(convolve(y, w["spatial.6.weight"], w["spatial.6.bias"]), w, "spatial_norm")
    return x * (1 + 1 / (1 + np.exp(-(channel[:, :, None, None] + spatial))))


def with_statistics(block):
    """BatchNorm values that are not the identity, so that a forgotten or swapped one shows."""
    for norm in (block.channel_norm, block.spatial_norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.normal_()
        norm.bias.data.normal_()
    return block


@pytest.mark.parametrize(
    ("shape", "options"),
    [((2, 32, 9, 11), {}), ((1, 16, 5, 4), {"reduction": 4, "dilation": 2}), ((3, 6, 1, 1), {"reduction": 16})],
)
def test_equals_the_equations_in_float64(shape, options):
    torch.manual_seed(0)
    block = with_statistics(Bam(shape[1], **options).double().eval())
    x = torch.randn(shape, dtype=torch.float64)
    weights = {name: value.numpy() for name, value in block.state_dict().items()}
    expected = bam(x.numpy(), weights, options.get("dilation", 4))
    # float64 on both sides: only the order of sums differs
    np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=1e-11, atol=1e-13)


def test_a_closed_gate_leaves_the_features_as_they_are():
    block = Bam(16).eval()
    block.spatial_norm.weight.data.zero_()
    block.spatial_norm.bias.data.fill_(-1e4)  # the sigmoid of this is 0 in float32
    x = torch.randn(1, 16, 5, 5)
    assert torch.equal(block(x), x)


def test_has_the_parameters_of_the_equations():
    c, h = 64, 4
    mlp, norms = 2 * c * h + h + c, 2 * c + 2
    spatial = (c * h + h) + 2 * (9 * h * h + h) + (h + 1)
    assert sum(p.numel() for p in Bam(c).parameters()) == mlp + norms + spatial


def test_a_hook_on_the_gate_sees_one_mask_over_channels_and_positions():
    block, seen = Bam(16).eval(), []
    block.gate.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block(torch.randn(2, 16, 6, 7))
    assert [tuple(mask.shape) for mask in seen] == [(2, 16, 6, 7)]


def test_refuses_a_dilation_of_zero():
    with pytest.raises(UsageError, match="dilation=0 must be positive"):
        Bam(16, dilation=0)
