import numpy as np
import pytest
import torch

from edgeattn.blocks.coordinate import Coordinate
from edgeattn.errors import UsageError

pytestmark = pytest.mark.torch


def coordinate(x, w):
    """Equations 4 to 9 from the state_dict, one row and one column at a time, in float64."""

    def shared(z):
        y = z @ w["shared.weight"][:, :, 0, 0].T + w["shared.bias"]
        y = (y - w["norm.running_mean"]) / np.sqrt(w["norm.running_var"] + 1e-5) * w["norm.weight"] + w["norm.bias"]
        return y * np.clip(y + 3, 0, 6) / 6

    def gate(z, name):
        return 1 / (1 + np.exp(-(shared(z) @ w[f"{name}.weight"][:, :, 0, 0].T + w[f"{name}.bias"])))

    y = x.copy()
    for i in range(x.shape[2]):
        y[:, :, i, :] *= gate(x[:, :, i, :].mean(2), "rows")[:, :, None]
    for j in range(x.shape[3]):
        y[:, :, :, j] *= gate(x[:, :, :, j].mean(2), "columns")[:, :, None]
    return y


@pytest.mark.parametrize(("shape", "reduction"), [((2, 32, 6, 9), 32), ((1, 48, 7, 3), 4), ((3, 5, 1, 1), 32)])
def test_equals_the_equations_in_float64(shape, reduction):
    torch.manual_seed(0)
    block = Coordinate(shape[1], reduction=reduction).double().eval()
    block.norm.running_mean.normal_()
    block.norm.running_var.uniform_(0.5, 2)
    block.norm.weight.data.normal_()
    block.norm.bias.data.normal_()
    x = torch.randn(shape, dtype=torch.float64)
    expected = coordinate(x.numpy(), {name: value.numpy() for name, value in block.state_dict().items()})
    # float64 on both sides: only the order of sums differs
    np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=1e-11, atol=1e-13)


def test_the_gate_emits_rows_then_columns():
    block, seen = Coordinate(16).eval(), []
    block.gate.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    block(torch.randn(2, 16, 6, 7))
    assert seen == [(2, 16, 6, 1), (2, 16, 7, 1)]


def test_the_hidden_width_is_channels_over_reduction_and_at_least_eight():
    assert Coordinate(512).shared.out_channels == 16
    assert Coordinate(64).shared.out_channels == 8


def test_has_three_convolutions_with_biases_and_one_norm():
    c, d = 512, 16
    assert sum(p.numel() for p in Coordinate(c).parameters()) == (c * d + d) + 2 * d + 2 * (d * c + c)


def test_refuses_a_reduction_of_zero():
    with pytest.raises(UsageError, match="channels=8 and reduction=0 must both be positive"):
        Coordinate(8, reduction=0)
