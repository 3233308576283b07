import pytest
import torch
from torch import nn

from edgeattn.blocks.cam import Cam
from edgeattn.blocks.latent import Latent
from edgeattn.models._macs import count_macs

pytestmark = pytest.mark.torch


def test_counts_a_convolution_by_output_pixels_and_kernel():
    assert count_macs(nn.Conv2d(3, 8, 5, stride=2, padding=2), torch.zeros(2, 3, 9, 9)) == 2 * 8 * 5 * 5 * 3 * 25


def test_counts_a_grouped_convolution_by_its_own_inputs():
    assert count_macs(nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.zeros(1, 8, 4, 4)) == 8 * 16 * 9


def test_counts_the_shared_mlp_of_cbam_twice():
    assert count_macs(Cam(32, reduction=8), torch.zeros(1, 32, 5, 5)) == 2 * 2 * 32 * 4


def test_counts_what_a_module_computes_from_a_parameter_of_its_own():
    # heads as wide as the memory, 8: queries 4×6×8, keys and values 2×7×8×8, scores and their sums 2×4×7×8, out 4×8×6
    macs = 4 * 6 * 8 + 2 * 7 * 8 * 8 + 2 * 4 * 7 * 8 + 4 * 8 * 6
    assert count_macs(Latent(8, latents=4, width=6), torch.zeros(1, 7, 8)) == macs


def test_leaves_the_module_as_it_was():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    count_macs(net, torch.zeros(2, 3))
    assert net.training
    assert not net[0]._forward_hooks
    assert net[1].num_batches_tracked == 0
