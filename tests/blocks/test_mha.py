import numpy as np
import pytest
import torch

from edgeattn.blocks.mha import Mha
from edgeattn.errors import UsageError

pytestmark = pytest.mark.torch


def turned(vector, position):
    """RoFormer's equation 15: one 2x2 rotation a pair."""
    d, result = len(vector), np.zeros_like(vector)
    for i in range(d // 2):
        angle = position * 10000.0 ** (-2 * i / d)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        result[2 * i : 2 * i + 2] = rotation @ vector[2 * i : 2 * i + 2]
    return result


def attention(block, query, memory, mask):
    """Equation 1, one head and one query position at a time over the memory it may see, in float64."""
    parameters = {name: value.detach().numpy() for name, value in block.named_parameters()}

    def mapped(name, x):
        return x @ parameters[f"{name}.weight"].T + parameters.get(f"{name}.bias", 0.0)

    (batch, steps, _), length = query.shape, memory.shape[1]
    q, k, v = mapped("query", query), mapped("key", memory), mapped("value", memory)
    weights, joined, d = np.zeros((batch, block.heads, steps, length)), np.zeros_like(q), q.shape[2] // block.heads
    for row, head, t in np.ndindex(batch, block.heads, steps):
        group = head * block.groups // block.heads
        mine, theirs = slice(head * d, head * d + d), slice(group * d, group * d + d)
        seen = [s for s in range(length) if mask[row, s] and not (block.causal and s > t)]
        if not seen:
            continue
        turn = turned if block.rotary else lambda vector, position: vector
        scores = np.array([turn(q[row, t, mine], t) @ turn(k[row, s, theirs], s) for s in seen]) / np.sqrt(d)
        exponentials = np.exp(scores - scores.max())
        weights[row, head, t, seen] = exponentials / exponentials.sum()
        joined[row, t, mine] = weights[row, head, t, seen] @ v[row, seen, theirs]
    return mapped("output", joined), weights


OPTIONS = [
    {"heads": 1},
    {"heads": 4},
    {"heads": 4, "kv_heads": 2},
    {"heads": 4, "kv_heads": 1, "bias": True},
    {"heads": 2, "causal": True},
    {"heads": 4, "kv_heads": 2, "causal": True, "bias": True},
    {"heads": 2, "inner": 6, "bias": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("lengths", "steps"), [([5, 2, 0], 4), ([1], 1), ([3, 3], 6)])
@pytest.mark.parametrize("sizes", [(8, 8), (12, 5)])
def test_equals_the_equations_in_float64(options, lengths, steps, sizes):
    torch.manual_seed(0)
    block = Mha(*sizes, **options).double().eval()
    longest = max(lengths)
    query = torch.randn(len(lengths), steps, sizes[0]).double()
    memory = torch.randn(len(lengths), longest, sizes[1]).double()
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    expected = attention(block, query.numpy(), memory.numpy(), mask.numpy())
    for actual, wanted in zip(block(query, memory, mask), expected, strict=True):
        # float64 on both sides: only the order of sums differs
        np.testing.assert_allclose(actual.detach().numpy(), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", [{"heads": 2}, {"heads": 4, "kv_heads": 2, "causal": True}])
def test_rotary_equals_its_equation(options):
    torch.manual_seed(0)
    block = Mha(16, 16, rotary=True, **options).double().eval()
    x, mask = torch.randn(2, 9, 16).double(), torch.arange(9) < torch.tensor([[9], [4]])
    expected = attention(block, x.numpy(), x.numpy(), mask.numpy())
    for actual, wanted in zip(block(x, x, mask), expected, strict=True):
        # the frequencies are kept in float32, so angles up to 8 are known to 5e-7
        np.testing.assert_allclose(actual.detach().numpy(), wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_no_mask_says_that_every_position_is_valid(causal):
    torch.manual_seed(0)
    block, query, memory = Mha(8, 6, heads=2, causal=causal), torch.randn(2, 4, 8), torch.randn(2, 7, 6)
    every = torch.ones(2, 7, dtype=torch.bool)
    assert all(map(torch.equal, block(query, memory, None), block(query, memory, every)))


def test_rotary_scores_depend_on_distances_only():
    torch.manual_seed(0)
    block, x = Mha(8, 8, heads=2, rotary=True).double(), torch.randn(1, 3, 8).double()
    filler = torch.zeros(1, 4, 8).double()
    late = torch.cat((filler, x), 1)
    _, early_weights = block(x, x, torch.ones(1, 3, dtype=torch.bool))
    _, late_weights = block(late, late, torch.tensor([[False] * 4 + [True] * 3]))
    # float64 rotations by other angles
    torch.testing.assert_close(late_weights[:, :, 4:, 4:], early_weights, rtol=0, atol=1e-12)


def test_rotary_keeps_its_table_out_of_the_weights():
    names = ["query.weight", "key.weight", "value.weight", "output.weight"]
    assert list(Mha(8, 8, heads=2, rotary=True).state_dict()) == names


def test_grouped_queries_have_smaller_keys_and_values():
    shapes = {name: tuple(value.shape) for name, value in Mha(16, 6, heads=4, kv_heads=2).named_parameters()}
    assert shapes["key.weight"] == shapes["value.weight"] == (8, 6)
    assert shapes["query.weight"] == shapes["output.weight"] == (16, 16)


@pytest.mark.parametrize("options", [{"heads": 3}, {"heads": 4, "kv_heads": 3}, {"heads": 0}, {"kv_heads": 0}])
def test_sizes_that_do_not_divide_are_refused(options):
    with pytest.raises(UsageError, match="do not divide; the width must be a multiple of heads"):
        Mha(16, 16, **options)


def test_rotary_asks_for_heads_of_even_width():
    with pytest.raises(UsageError, match="turn pairs, but a head is 3 wide; choose fewer heads"):
        Mha(12, 12, heads=4, rotary=True)


CACHED = [{"heads": 2}, {"heads": 4, "kv_heads": 2}, {"heads": 4, "kv_heads": 1, "rotary": True}]


@pytest.mark.parametrize("options", CACHED)
@pytest.mark.parametrize("split", [1, 4])
def test_projected_in_pieces_and_attended_one_by_one_equals_causal_attention(options, split):
    torch.manual_seed(0)
    block, x = Mha(8, 8, causal=True, **options).double(), torch.randn(2, 6, 8).double()
    whole, whole_weights = block(x, x, torch.ones(2, 6, dtype=torch.bool))
    order = torch.arange(6).expand(2, 6)
    pieces = [block.project(x[:, a:b], order[:, a:b]) for a, b in ((0, split), (split, 6))]
    keys, values = (torch.cat(parts, 2) for parts in zip(*pieces, strict=True))
    for t in range(6):
        now = slice(t, t + 1)
        visible = torch.ones(2, 1, 1, t + 1, dtype=torch.bool)
        y, weights = block.attend(x[:, now], keys[:, :, : t + 1], values[:, :, : t + 1], visible, order[:, now])
        # float64 on both sides: only the order of sums differs
        torch.testing.assert_close(y, whole[:, now], rtol=0, atol=1e-12)
        torch.testing.assert_close(weights[:, :, 0], whole_weights[:, :, t, : t + 1], rtol=0, atol=1e-12)


def test_each_row_is_turned_by_positions_of_its_own():
    torch.manual_seed(0)
    block, x = Mha(8, 8, heads=2, rotary=True).double(), torch.randn(2, 3, 8).double()
    positions = torch.tensor([[0, 1, 2], [5, 9, 30]])
    keys, values = block.project(x, positions)
    plain, same = block.project(x, torch.zeros(2, 3, dtype=torch.int64))
    assert torch.equal(values, same)
    for row, head, n in np.ndindex(2, 2, 3):
        expected = turned(plain[row, head, n].detach().numpy(), positions[row, n].item())
        # the frequencies are kept in float32, so an angle up to 30 is known to 2e-6
        np.testing.assert_allclose(keys[row, head, n].detach().numpy(), expected, rtol=0, atol=1e-5)


def test_what_is_not_visible_changes_nothing_and_nothing_visible_gives_zeros():
    torch.manual_seed(0)
    block, x = Mha(8, 8, heads=2).eval(), torch.randn(1, 4, 8)
    keys, values = block.project(x)
    visible = torch.tensor([[True, False, True, False], [False] * 4]).view(1, 1, 2, 4)
    y, weights = block.attend(x[:, :2], keys, values, visible)
    other, _ = block.attend(
        x[:, :2], *(torch.where(visible[0, :, :1, :, None], c, 7.0) for c in (keys, values)), visible
    )
    assert torch.equal(y, other)
    assert not weights[:, :, 1].any()
    assert not y[:, 1].any()
