import numpy as np
import pytest
import torch

from edgeattn.blocks.eca import Eca
from edgeattn.errors import UsageError

pytestmark = pytest.mark.torch


def nearest_odd(channels):
    """Equation 12 by search: the odd number nearest to (log2 C + 1) / 2, the larger where two are."""
    wanted = np.log2(channels) / 2 + 1 / 2
    return min(range(1, 33, 2), key=lambda k: (abs(k - wanted), -k))


def gates(x, weight):
    """Equation 9: every channel's gate as an explicit sum over its k neighbours, in float64."""
    z, reach = x.mean((2, 3)), len(weight) // 2
    logits = np.zeros_like(z)
    for c in range(z.shape[1]):
        for offset in range(-reach, reach + 1):
            if 0 <= c + offset < z.shape[1]:
                logits[:, c] += weight[offset + reach] * z[:, c + offset]
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize(("shape", "kernel"), [((2, 32, 5, 7), None), ((1, 128, 3, 3), None), ((3, 6, 1, 4), 9)])
def test_equals_the_equation_in_float64(shape, kernel):
    torch.manual_seed(0)
    block = Eca(shape[1], kernel=kernel).double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    s = gates(x.numpy(), block.conv.weight.detach().numpy()[0, 0])
    # float64 on both sides: only the order of sums differs
    np.testing.assert_allclose(block(x).detach().numpy(), x.numpy() * s[:, :, None, None], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 16, 48, 64, 100, 128, 256, 512, 768, 1024, 2048])
def test_the_kernel_follows_the_number_of_channels(channels):
    assert Eca(channels).conv.kernel_size == (nearest_odd(channels),)


def test_resnets_four_widths_get_the_kernels_of_the_released_networks():
    assert [Eca(c).conv.kernel_size[0] for c in (256, 512, 1024, 2048)] == [5, 5, 5, 7]


def test_has_as_many_parameters_as_the_kernel_is_long():
    assert sum(p.numel() for p in Eca(64).parameters()) == 3
    assert sum(p.numel() for p in Eca(64, kernel=9).parameters()) == 9


def test_a_hook_on_the_gate_sees_one_mask_value_per_channel():
    block, seen = Eca(32).eval(), []
    block.gate.register_forward_hook(lambda module, inputs, output: seen.append(output))
    block(torch.randn(2, 32, 4, 4))
    assert [tuple(mask.shape) for mask in seen] == [(2, 32)]


@pytest.mark.parametrize("kernel", [0, 4])
def test_refuses_a_kernel_that_cannot_keep_the_channels(kernel):
    with pytest.raises(UsageError, match=f"kernel={kernel} must be odd and positive"):
        Eca(8, kernel=kernel)


def test_refuses_no_channels():
    with pytest.raises(UsageError, match="channels=0 must be positive"):
        Eca(0)
