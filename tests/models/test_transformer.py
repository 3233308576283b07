import pytest
import torch

from edgeattn.models._transformer import Layer

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize("options", [{}, {"rotary": True, "kv_heads": 1}], ids=["plain", "rotary-groups"])
@pytest.mark.parametrize("split", [1, 4])
def test_a_cached_layer_continues_what_a_causal_one_does_at_once(post_norm, options, split):
    torch.manual_seed(0)
    layer = Layer(16, 4, 24, post_norm=post_norm, causal=True, **options).double()
    x, order = torch.randn(2, 6, 16).double(), torch.arange(6).expand(2, 6)
    whole = layer(x, torch.ones(2, 6, dtype=torch.bool))
    past = None
    for now in (slice(0, split), slice(split, 6)):
        visible = (torch.arange(now.stop) <= order[0, now].unsqueeze(1)).view(1, 1, -1, now.stop)
        y, past = layer.cached(x[:, now], order[:, now], visible, past)
        # float64 on both sides: only the order of sums differs
        torch.testing.assert_close(y, whole[:, now], rtol=0, atol=1e-12)
    assert past[0].shape == past[1].shape == (2, options.get("kv_heads", 4), 6, 4)
