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


def test_with_a_hard_gate_equals_mobilenets_equation_in_float64():
    torch.manual_seed(0)
    block = Se(32, reduction=4, gate="hard-sigmoid", multiple=8).double().eval()
    x = 99 * torch.randn(2, 32, 5, 7, dtype=torch.float64)
    w1, b1, w2, b2 = (p.detach().numpy() for p in block.mlp.parameters())
    z = x.numpy().mean((2, 3))
    s = np.clip(np.maximum(z @ w1.T + b1, 0) @ w2.T + b2 + 3, 0, 6) / 6
    assert (s.min(), s.max()) == (0, 1)  # the features are large enough to shut some gates and to open others wide
    # float64 on both sides: only the order of sums differs
    np.testing.assert_allclose(block(x).detach().numpy(), x.numpy() * s[:, :, None, None], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("value", "gate"), [(-4.0, 0.0), (-3.0, 0.0), (0.0, 0.5), (1.5, 0.75), (3.0, 1.0), (4.0, 1.0)])
def test_a_hard_gate_is_shut_below_minus_three_and_open_above_three(value, gate):
    block = Se(16, gate="hard-sigmoid")
    # float32: a sixth is not exact
    torch.testing.assert_close(block.gate(torch.tensor(value)), torch.tensor(gate), rtol=0, atol=1e-7)


# The squeeze widths of MobileNetV3: a quarter of the expansion, to the nearest multiple of 8, never a tenth below.
@pytest.mark.parametrize(
    ("expansion", "hidden"),
    [(16, 8), (72, 24), (96, 24), (120, 32), (144, 40), (240, 64), (480, 120), (576, 144), (672, 168), (960, 240)],
)
def test_the_hidden_width_can_be_rounded_to_multiples_of_eight(expansion, hidden):
    assert Se(expansion, reduction=4, multiple=8).mlp[0].out_features == hidden


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "hard"}, "unknown SE gate 'hard'; known: sigmoid, hard-sigmoid"),
        ({"multiple": 0}, "multiple=0 must be positive; 1 leaves the width as it is"),
    ],
)
def test_refuses_an_unknown_gate_and_a_multiple_of_zero(options, message):
    with pytest.raises(UsageError, match=message):
        Se(8, **options)
