import numpy as np
import pytest
import torch

from edgeattn.blocks.se import Se
from edgeattn.errors import UsageError

pytestmark = pytest.mark.torch


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_equals_the_equation_in_float64():
    torch.manual_seed(0)
    block = Se(32, reduction=4).double().eval()
    x = torch.randn(2, 32, 5, 7, dtype=torch.float64)
    w1, b1, w2, b2 = (p.detach().numpy() for p in block.mlp.parameters())
    z = x.numpy().mean((2, 3))
    s = sigmoid(np.maximum(z @ w1.T + b1, 0) @ w2.T + b2)
    # float64 on both sides: only the order of sums differs
    np.testing.assert_allclose(block(x).detach().numpy(), x.numpy() * s[:, :, None, None], rtol=1e-12, atol=1e-14)


def test_the_hidden_width_is_channels_over_reduction_and_at_least_one():
    assert Se(64).mlp[0].out_features == 4
    assert Se(8).mlp[0].out_features == 1


def test_both_linear_layers_have_biases():
    assert sum(p.numel() for p in Se(64).parameters()) == 2 * 64 * 4 + 4 + 64


def test_refuses_a_reduction_of_zero():
    with pytest.raises(UsageError, match="channels=8 and reduction=0 must both be positive"):
        Se(8, reduction=0)
