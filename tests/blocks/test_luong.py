import numpy as np
import pytest
import torch

from edgeattn.blocks.luong import Luong
from edgeattn.errors import UsageError

pytestmark = pytest.mark.torch


def attention(query, memory, mask, weight):
    """Equations 7 and 8, one row at a time over its valid positions only, in float64."""
    contexts, alignments = np.zeros((len(query), memory.shape[2])), np.zeros(mask.shape)
    for row, valid in enumerate(mask):
        if valid.any():
            scores = memory[row, valid] @ weight.T @ query[row]
            exponentials = np.exp(scores - scores.max())
            alignments[row, valid] = exponentials / exponentials.sum()
            contexts[row] = alignments[row, valid] @ memory[row, valid]
    return contexts, alignments


@pytest.mark.parametrize(("score", "query_size", "memory_size"), [("general", 6, 10), ("general", 8, 8), ("dot", 8, 8)])
def test_equals_the_equations_in_float64(score, query_size, memory_size):
    torch.manual_seed(0)
    block = Luong(query_size, memory_size, score=score).double().eval()
    query, memory = torch.randn(3, query_size).double(), torch.randn(3, 5, memory_size).double()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    weight = block.project.weight.detach().numpy() if score == "general" else np.eye(query_size)
    expected = attention(query.numpy(), memory.numpy(), mask.numpy(), weight)
    for actual, wanted in zip(block(query, memory, mask), expected, strict=True):
        # float64 on both sides: only the order of sums differs
        np.testing.assert_allclose(actual.detach().numpy(), wanted, rtol=1e-12, atol=1e-14)


def test_weights_sum_to_one_and_are_zero_where_masked():
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, False, True]])
    _, weights = Luong(4, 4)(torch.randn(1, 4), torch.randn(1, 4, 4), mask)
    assert weights[0, 2] == 0
    assert weights.sum().item() == pytest.approx(1, abs=1e-6)  # float32 softmax


def test_a_fully_masked_row_gives_zeros_and_leaves_the_others_alone():
    torch.manual_seed(0)
    block, query, memory = Luong(4, 4), torch.randn(2, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[False] * 3, [True] * 3])
    context, weights = block(query, memory, mask)
    assert torch.equal(context[0], torch.zeros(4))
    assert torch.equal(weights[0], torch.zeros(3))
    alone, _ = block(query[1:], memory[1:], mask[1:])
    # another batch size may choose another float32 matmul kernel
    np.testing.assert_allclose(context[1:].detach().numpy(), alone.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_dot_has_no_weights_and_asks_for_equal_sizes():
    assert not list(Luong(8, 8, score="dot").parameters())
    with pytest.raises(UsageError, match="score 'dot' needs equal sizes, got query 8 and memory 16; use 'general'"):
        Luong(8, 16, score="dot")


def test_an_unknown_score_names_the_known_ones():
    with pytest.raises(UsageError, match="unknown Luong score 'concat'; known: general, dot"):
        Luong(8, 8, score="concat")
