import numpy as np
import pytest
import torch

from edgeattn.blocks.sam import Sam
from edgeattn.errors import UsageError

pytestmark = pytest.mark.torch


def convolve(planes, weight):
    """``(B, 2, H, W)`` with ``(1, 2, k, k)``, zero padded, as explicit sums."""
    reach = weight.shape[-1] // 2
    padded = np.pad(planes, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    return np.einsum("bchwij,ocij->bohw", windows, weight)


def spatial_attention(x, block):
    """Equation 3 of the paper with the authors' BatchNorm, in float64."""
    pooled = np.stack((x.max(1), x.mean(1)), 1)
    norm = block.norm
    mean, var = norm.running_mean.numpy(), norm.running_var.numpy()
    y = (convolve(pooled, block.conv.weight.detach().numpy()) - mean) / np.sqrt(var + 1e-5)
    return 1 / (1 + np.exp(-(y * norm.weight.detach().numpy() + norm.bias.detach().numpy())))


def with_statistics(block):
    """BatchNorm values that are not the identity, so that a forgotten one shows."""
    block.norm.running_mean.fill_(0.3)
    block.norm.running_var.fill_(0.7)
    block.norm.weight.data.fill_(1.4)
    block.norm.bias.data.fill_(-0.2)
    return block


def test_equals_the_equation_in_float64():
    torch.manual_seed(0)
    block = with_statistics(Sam(16).double().eval())
    x = torch.randn(2, 16, 9, 11, dtype=torch.float64)
    expected = x.numpy() * spatial_attention(x.numpy(), block)
    # float64 on both sides: only the order of sums differs
    np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=1e-11, atol=1e-13)


def test_the_maximum_comes_first_in_the_concatenation():
    block, seen = Sam(4).eval(), []
    block.conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 4, 5, 5)
    block(x)
    assert torch.equal(seen[0][:, 0], x.amax(1))
    assert torch.equal(seen[0][:, 1], x.mean(1))


def test_has_the_convolution_without_bias_and_two_norm_parameters():
    assert sum(p.numel() for p in Sam(64).parameters()) == 98 + 2


def test_a_hook_on_the_gate_sees_the_spatial_mask():
    block, seen = Sam(8).eval(), []
    block.gate.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block(torch.randn(3, 8, 6, 4))
    assert tuple(seen[0].shape) == (3, 1, 6, 4)


@pytest.mark.parametrize("kernel", [0, 4])
def test_refuses_a_kernel_that_cannot_keep_the_size(kernel):
    with pytest.raises(UsageError, match=f"kernel={kernel} must be odd and positive"):
        Sam(8, kernel=kernel)
