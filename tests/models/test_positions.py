import numpy as np
import pytest
import torch

from edgeattn.errors import UsageError
from edgeattn.models._positions import Learned, Sinusoidal, positions_of

pytestmark = pytest.mark.torch


def sinusoid(position, dimension, width):
    """Section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i + 1) the cosine."""
    angle = position / 10000 ** ((dimension - dimension % 2) / width)
    return np.cos(angle) if dimension % 2 else np.sin(angle)


def test_sinusoids_equal_the_papers_formula():
    positions = torch.tensor([[0, 1, 2], [40, 7, 99]])
    actual = Sinusoidal(100, 12).double()(positions).numpy()
    expected = [[[sinusoid(int(n), k, 12) for k in range(12)] for n in row] for row in positions]
    # the table is kept in float32; its values are at most 1
    np.testing.assert_allclose(actual, expected, rtol=0, atol=6e-8)


def test_a_table_made_in_float64_equals_the_formula_in_float64():
    torch.set_default_dtype(torch.float64)
    try:
        actual = Sinusoidal(100, 12)(torch.arange(100)).numpy()
    finally:
        torch.set_default_dtype(torch.float32)
    expected = [[sinusoid(n, k, 12) for k in range(12)] for n in range(100)]
    # float64 on both sides; an angle up to 99 is known to 1e-14
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-13)


def test_learned_positions_are_rows_of_a_trained_table():
    module = Learned(9, 4).double()
    positions = torch.tensor([[0, 8], [3, 3]])
    assert torch.equal(module(positions), module.weight[positions])
    assert module.weight.requires_grad


def test_only_learned_positions_are_weights():
    assert list(Learned(9, 4).state_dict()) == ["weight"]
    assert not Sinusoidal(9, 4).state_dict()


def test_rotary_positions_add_nothing():
    assert positions_of("rotary", 9, 4) is None


def test_an_unknown_kind_and_an_odd_width_are_refused():
    with pytest.raises(UsageError, match="unknown positions 'relative'; one of: learned, sinusoidal, rotary"):
        positions_of("relative", 9, 4)
    with pytest.raises(UsageError, match="sinusoids come in pairs, but the width is 5; choose an even width"):
        positions_of("sinusoidal", 9, 5)
