import numpy as np
import pytest
import torch

from edgeattn.blocks.latent import CrossAttention, Latent
from edgeattn.errors import UsageError

pytestmark = pytest.mark.torch

EPS = 1e-5  # of both LayerNorms, as the card says


def normed(x, gain, bias):
    centred = x - x.mean(-1, keepdims=True)
    return gain * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS) + bias


def read(block, latents, memory, mask):
    """One latent, one head, one valid position at a time, in float64."""
    p = {name: value.detach().numpy() for name, value in block.named_parameters()}

    def mapped(name, x):
        return x @ p[f"attention.{name}.weight"].T + p[f"attention.{name}.bias"]

    heads = block.attention.heads
    (batch, count, _), length = latents.shape, memory.shape[1]
    q = mapped("query", normed(latents, p["norm.weight"], p["norm.bias"]))
    m = normed(memory, p["memory_norm.weight"], p["memory_norm.bias"])
    k, v, d = mapped("key", m), mapped("value", m), q.shape[2] // heads
    weights, joined = np.zeros((batch, heads, count, length)), np.zeros_like(q)
    for row, head, n in np.ndindex(batch, heads, count):
        part, seen = slice(head * d, head * d + d), np.flatnonzero(mask[row])
        if len(seen):
            exponentials = np.exp([q[row, n, part] @ k[row, s, part] / np.sqrt(d) for s in seen])
            weights[row, head, n, seen] = exponentials / exponentials.sum()
            joined[row, n, part] = weights[row, head, n, seen] @ v[row, seen, part]
    return latents + mapped("output", joined), weights


def shaken(block):
    """Gains and biases start at 1 and 0, where a mistake in them would not show."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in block.parameters():
            value += 0.3 * torch.randn(value.shape)
    return block.double().eval()


OPTIONS = [{}, {"heads": 2, "inner": 8}, {"heads": 3, "inner": 12}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("lengths", [[5, 2, 0], [1], [7, 7]])
def test_equals_the_equations_in_float64(options, lengths):
    block = shaken(Latent(5, latents=4, width=6, **options))
    memory = torch.randn(len(lengths), max(lengths), 5).double()
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    latents = np.broadcast_to(block.latents.detach().numpy(), (len(lengths), 4, 6))
    expected = read(block.cross, latents, memory.numpy(), mask.numpy())
    for actual, wanted in zip(block(memory, mask), expected, strict=True):
        # float64 on both sides: only the order of sums differs
        np.testing.assert_allclose(actual.detach().numpy(), wanted, rtol=1e-11, atol=1e-13)


def test_reads_again_with_what_the_latents_became():
    block = shaken(CrossAttention(5, 6, heads=1))
    x, memory = torch.randn(2, 3, 6).double(), torch.randn(2, 4, 5).double()
    mask = torch.tensor([[True] * 4, [True, False, True, False]])
    expected = read(block, x.numpy(), memory.numpy(), mask.numpy())
    # float64 on both sides: only the order of sums differs
    np.testing.assert_allclose(block(x, memory, mask)[0].detach().numpy(), expected[0], rtol=1e-11, atol=1e-13)


def test_no_mask_says_that_every_position_is_valid():
    block, memory = shaken(Latent(5, latents=4, width=6)), torch.randn(2, 7, 5).double()
    masked = block(memory, torch.ones(2, 7, dtype=torch.bool))
    assert all(map(torch.equal, block(memory), masked))


def test_the_heads_are_as_wide_as_the_memory_unless_told_otherwise():
    shapes = {name: tuple(value.shape) for name, value in Latent(10, latents=3, width=16, heads=2).named_parameters()}
    assert shapes["latents"] == (3, 16)
    assert shapes["cross.attention.query.weight"] == (10, 16)
    assert shapes["cross.attention.key.weight"] == shapes["cross.attention.value.weight"] == (10, 10)
    assert shapes["cross.attention.output.weight"] == (16, 10)
    assert tuple(Latent(10, width=16, heads=2, inner=4).cross.attention.key.weight.shape) == (4, 10)


def test_the_latents_start_small_and_are_no_ones_copy():
    latents = Latent(4, latents=64, width=64).latents
    assert 0.018 < latents.std() < 0.022  # 4,096 draws of standard deviation 0.02
    assert len(torch.unique(latents, dim=0)) == 64


def test_heads_that_do_not_divide_the_memory_are_refused():
    with pytest.raises(UsageError, match="width 5, 2 heads and 2 key/value heads do not divide"):
        Latent(5, heads=2)
