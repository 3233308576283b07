import numpy as np
import pytest
import torch

from edgeattn.blocks.luong import Luong
from edgeattn.errors import UsageError

pytestmark = pytest.mark.torch


def attention(query, memory, mask, score):
    """Equation 7, one row at a time over its valid positions only, in float64; ``score(h, h_s)`` is equation 8."""
    contexts, alignments = np.zeros((len(query), memory.shape[2])), np.zeros(mask.shape)
    for row, valid in enumerate(mask):
        if valid.any():
            scores = np.array([score(query[row], annotation) for annotation in memory[row, valid]])
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
    expected = attention(query.numpy(), memory.numpy(), mask.numpy(), lambda h, other: h @ weight @ other)
    for actual, wanted in zip(block(query, memory, mask), expected, strict=True):
        # float64 on both sides: only the order of sums differs
        np.testing.assert_allclose(actual.detach().numpy(), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("query_size", "memory_size", "hidden"), [(6, 10, None), (8, 8, 3), (1, 2, 5)])
@pytest.mark.parametrize("lengths", [[5, 2, 0], [1], [7, 7]])
def test_concat_equals_the_equations_in_float64(query_size, memory_size, hidden, lengths):
    torch.manual_seed(0)
    block = Luong(query_size, memory_size, score="concat", hidden=hidden).double().eval()
    batch, longest = len(lengths), max(lengths)
    query, memory = torch.randn(batch, query_size).double(), torch.randn(batch, longest, memory_size).double()
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    wide, v = block.join.weight.detach().numpy(), block.v.weight.detach().numpy()[0]
    assert wide.shape == (hidden or query_size, query_size + memory_size)

    def score(h, other):
        return v @ np.tanh(wide @ np.concatenate([h, other]))

    expected = attention(query.numpy(), memory.numpy(), mask.numpy(), score)
    for actual, wanted in zip(block(query, memory, mask), expected, strict=True):
        # float64 on both sides: only the order of sums differs
        np.testing.assert_allclose(actual.detach().numpy(), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("score", ["general", "dot", "concat"])
def test_keys_made_beforehand_change_nothing(score):
    torch.manual_seed(0)
    block, query, memory = Luong(4, 4, score=score), torch.randn(2, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True] * 3])
    for once, again in zip(
        block(query, memory, mask), block.attend(query, block.project(memory), memory, mask), strict=True
    ):
        assert torch.equal(once, again)


def test_only_concat_adds_parameters_and_general_keeps_its_one_name():
    assert list(Luong(8, 6).state_dict()) == ["project.weight"]
    assert list(Luong(8, 6, score="concat").state_dict()) == ["join.weight", "v.weight"]


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
    with pytest.raises(UsageError, match="unknown Luong score 'additive'; known: general, dot, concat"):
        Luong(8, 8, score="additive")


@pytest.mark.parametrize(("score", "hidden"), [("general", 4), ("dot", 4), ("concat", 0)])
def test_a_hidden_width_that_fits_no_layer_is_refused(score, hidden):
    with pytest.raises(UsageError, match=f"hidden={hidden} does not fit score '{score}'; a positive width, with"):
        Luong(8, 8, score=score, hidden=hidden)
