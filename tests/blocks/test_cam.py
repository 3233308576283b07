import numpy as np
import pytest
import torch

from edgeattn.blocks.cam import Cam

pytestmark = pytest.mark.torch


def channel_attention(x, w0, b0, w1, b1):
    """Equation 2 of the paper, written out for one float64 batch."""

    def mlp(z):
        return np.maximum(z @ w0.T + b0, 0) @ w1.T + b1

    logits = mlp(x.mean((2, 3))) + mlp(x.max((2, 3)))
    return 1 / (1 + np.exp(-logits))


def test_equals_the_equation_in_float64():
    torch.manual_seed(0)
    block = Cam(32, reduction=4).double().eval()
    x = torch.randn(2, 32, 6, 5, dtype=torch.float64)
    mask = channel_attention(x.numpy(), *(p.detach().numpy() for p in block.mlp.parameters()))
    # float64 on both sides: only the order of sums differs
    np.testing.assert_allclose(block(x).detach().numpy(), x.numpy() * mask[:, :, None, None], rtol=1e-12, atol=1e-14)


def test_mean_and_maximum_share_one_mlp():
    assert sum(p.numel() for p in Cam(64).parameters()) == 2 * 64 * 4 + 4 + 64


def test_a_hook_on_the_gate_sees_one_mask_value_per_channel():
    block, seen = Cam(32).eval(), []
    block.gate.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block(torch.randn(2, 32, 4, 4))
    assert [tuple(mask.shape) for mask in seen] == [(2, 32)]
