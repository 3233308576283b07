import numpy as np
import pytest
import torch

from edgeattn.blocks.bahdanau import Bahdanau
from edgeattn.errors import UsageError

pytestmark = pytest.mark.torch


def attention(query, memory, mask, w, u, v, biases):
    """The alignment model of appendix A.1.2, then equations 6 and 5, over each row's valid positions only."""
    contexts, alignments = np.zeros((len(query), memory.shape[2])), np.zeros(mask.shape)
    for row, valid in enumerate(mask):
        if valid.any():
            scores = np.array([v @ np.tanh(w @ query[row] + u @ h + biases) for h in memory[row, valid]])
            exponentials = np.exp(scores - scores.max())
            alignments[row, valid] = exponentials / exponentials.sum()
            contexts[row] = alignments[row, valid] @ memory[row, valid]
    return contexts, alignments


@pytest.mark.parametrize(("query_size", "memory_size", "hidden"), [(6, 10, None), (8, 8, 3), (1, 2, 5)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lengths", [[5, 2, 0], [1], [7, 7]])
def test_equals_the_equations_in_float64(query_size, memory_size, hidden, bias, lengths):
    torch.manual_seed(0)
    block = Bahdanau(query_size, memory_size, hidden=hidden, bias=bias).double().eval()
    batch, longest = len(lengths), max(lengths)
    query, memory = torch.randn(batch, query_size).double(), torch.randn(batch, longest, memory_size).double()
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    parameters = {name: value.detach().numpy() for name, value in block.named_parameters()}
    biases = parameters["query.bias"] + parameters["project.bias"] if bias else 0.0
    w, u, v = (parameters[f"{name}.weight"] for name in ("query", "project", "v"))
    expected = attention(query.numpy(), memory.numpy(), mask.numpy(), w, u, v[0], biases)
    for actual, wanted in zip(block(query, memory, mask), expected, strict=True):
        # float64 on both sides: only the order of sums differs
        np.testing.assert_allclose(actual.detach().numpy(), wanted, rtol=1e-12, atol=1e-14)


def test_a_mask_with_holes_leaves_the_holes_out():
    torch.manual_seed(0)
    block, query, memory = Bahdanau(4, 6), torch.randn(1, 4), torch.randn(1, 5, 6)
    mask = torch.tensor([[True, False, True, True, False]])
    context, weights = block(query, memory, mask)
    alone, packed = block(query, memory[:, mask[0]], torch.ones(1, 3, dtype=torch.bool))
    assert not weights[~mask].any()
    # float32; masked positions add exact zeros, but a longer sum may be cut into other blocks
    torch.testing.assert_close(weights[:, mask[0]], packed, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(context, alone, rtol=1e-5, atol=1e-6)


def test_keys_made_beforehand_change_nothing():
    torch.manual_seed(0)
    block, query, memory = Bahdanau(4, 6), torch.randn(2, 4), torch.randn(2, 3, 6)
    mask = torch.tensor([[True, True, False], [True] * 3])
    for once, again in zip(
        block(query, memory, mask), block.attend(query, block.project(memory), memory, mask), strict=True
    ):
        assert torch.equal(once, again)


def test_it_has_the_papers_parameters_and_biases_only_when_asked():
    shapes = {name: tuple(value.shape) for name, value in Bahdanau(6, 12).state_dict().items()}
    assert shapes == {"query.weight": (6, 6), "project.weight": (6, 12), "v.weight": (1, 6)}
    assert set(Bahdanau(6, 12, bias=True).state_dict()) - set(shapes) == {"query.bias", "project.bias"}


def test_a_hidden_width_below_one_is_refused():
    with pytest.raises(UsageError, match="hidden=0 must be positive; the paper uses"):
        Bahdanau(8, 8, hidden=0)
