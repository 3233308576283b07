import numpy as np
import pytest
import torch

from edgeattn.models import bert
from edgeattn.training._optimise import forced_logits

pytestmark = pytest.mark.torch


def test_a_net_with_slots_is_fed_no_tokens():
    net = bert.Bert(9, 8, 16, 1, 2, slots=3, labels=5).eval()
    feeds = {"src": np.array([[3, 1, 4], [1, 5, 0]]), "src_mask": np.array([[True] * 3, [True, True, False]])}
    logits = forced_logits(net, feeds, torch.zeros(2, 3, dtype=torch.int64), start=0)
    assert torch.equal(logits, net(*map(torch.from_numpy, feeds.values())))
    assert logits.shape == (2, 3, 5)
