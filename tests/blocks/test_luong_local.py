import numpy as np
import pytest
import torch

from edgeattn.blocks.luong import Luong
from edgeattn.blocks.luong_local import LuongLocal
from edgeattn.errors import UsageError

pytestmark = pytest.mark.torch


def local(query, memory, mask, score, locate, window):
    """Equations 9 and 10 as the paper has them: the window is cut out of each row, then softmax and Gaussian."""
    w_p, v_p = locate
    contexts, alignments = np.zeros((len(query), memory.shape[2])), np.zeros(mask.shape)
    for row, valid in enumerate(mask):
        length = int(valid.sum())
        centre = length / (1 + np.exp(-(v_p @ np.tanh(w_p @ query[row]))))
        seen = [s for s in range(length) if centre - window <= s <= centre + window]
        if seen:
            scores = np.array([score(query[row], memory[row, s]) for s in seen])
            exponentials = np.exp(scores - scores.max())
            gaussian = np.exp(-((np.array(seen) - centre) ** 2) / (2 * (window / 2) ** 2))
            alignments[row, seen] = exponentials / exponentials.sum() * gaussian
            contexts[row] = alignments[row] @ memory[row]
    return contexts, alignments


def scorer(block, score):
    weights = {name: value.detach().numpy() for name, value in block.named_parameters()}
    if score == "general":
        return lambda h, other: h @ weights["project.weight"] @ other
    if score == "dot":
        return lambda h, other: h @ other
    return lambda h, other: weights["v.weight"][0] @ np.tanh(weights["join.weight"] @ np.concatenate([h, other]))


@pytest.mark.parametrize(("score", "sizes"), [("general", (6, 10)), ("dot", (8, 8)), ("concat", (5, 3))])
@pytest.mark.parametrize("window", [1, 2.5, 10])
@pytest.mark.parametrize("lengths", [[9, 4, 0, 1], [1], [23, 12]])
def test_equals_the_equations_in_float64(score, sizes, window, lengths):
    torch.manual_seed(0)
    block = LuongLocal(*sizes, score=score, window=window).double().eval()
    batch, longest = len(lengths), max(lengths)
    query, memory = 3 * torch.randn(batch, sizes[0]).double(), torch.randn(batch, longest, sizes[1]).double()
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    locate = block.locate[0].weight.detach().numpy(), block.locate[2].weight.detach().numpy()[0]
    expected = local(query.numpy(), memory.numpy(), mask.numpy(), scorer(block, score), locate, window)
    for actual, wanted in zip(block(query, memory, mask), expected, strict=True):
        # float64 on both sides: only the order of sums differs
        np.testing.assert_allclose(actual.detach().numpy(), wanted, rtol=1e-12, atol=1e-14)


def test_padding_moves_neither_the_window_nor_the_weights():
    torch.manual_seed(0)
    block, query, memory = LuongLocal(4, 4, window=3), torch.randn(1, 4), torch.randn(1, 20, 4)
    mask = torch.arange(20)[None] < 12
    context, weights = block(query, memory, mask)
    alone, short = block(query, memory[:, :12], mask[:, :12])
    assert not weights[:, 12:].any()
    # float32; masked positions add exact zeros, but a longer sum may be cut into other blocks
    torch.testing.assert_close(weights[:, :12], short, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(context, alone, rtol=1e-5, atol=1e-6)


def test_every_row_with_a_valid_position_sees_one_even_in_the_narrowest_window():
    torch.manual_seed(0)
    block = LuongLocal(4, 4, window=1)
    lengths = torch.arange(1, 200)
    _, weights = block(50 * torch.randn(199, 4), torch.randn(199, 199, 4), torch.arange(199) < lengths[:, None])
    assert bool((weights.sum(1) > 0).all())
    assert bool(((weights > 0).sum(1) <= 3).all())


def test_a_saturated_position_stays_at_the_end_of_the_row():
    block = LuongLocal(2, 2, window=2)
    with torch.no_grad():
        block.locate[0].weight.copy_(torch.eye(2))
        block.locate[2].weight.fill_(100.0)
    _, weights = block(torch.ones(1, 2), torch.zeros(1, 6, 2), torch.tensor([[True] * 5 + [False]]))
    # p = 5, so positions 3 and 4 are seen with equal scores: 1/2 * exp(-4/2) and 1/2 * exp(-1/2); float32
    expected = [0, 0, 0, np.exp(-2) / 2, np.exp(-0.5) / 2, 0]
    np.testing.assert_allclose(weights[0].detach().numpy(), expected, rtol=1e-6)


def test_it_takes_the_weights_of_global_attention():
    torch.manual_seed(0)
    trained = Luong(6, 8)
    missing, unexpected = LuongLocal(6, 8).load_state_dict(trained.state_dict(), strict=False)
    assert missing == ["locate.0.weight", "locate.2.weight"]
    assert unexpected == []


@pytest.mark.parametrize("window", [0, 0.5, -3, float("nan")])
def test_a_window_that_may_hold_no_position_is_refused(window):
    with pytest.raises(UsageError, match="must be at least 1; the paper uses 10"):
        LuongLocal(8, 8, window=window)
