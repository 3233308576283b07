"""What every attention over a memory must do, under masks, at every length, in PyTorch and exported."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeattn import rewrite
from edgeattn.export import export
from edgeattn.models import GraphSource, Source
from edgeattn.program import TensorSpec
from edgeattn.recognise import recognise
from tests.conformance.blocks import (
    ALIGNMENTS,
    DISTRIBUTIONS,
    ENGINES,
    LATENTS,
    LOCALS,
    MULTI_HEADS,
    attending,
    built,
    drawn,
    opened,
)

pytestmark = pytest.mark.torch

# Every way an attention over a memory can be built that changes its graph.
VARIANTS = [
    *[(name, {}) for name in ALIGNMENTS],
    ("luong", {"score": "dot"}),
    ("luong", {"score": "concat"}),
    ("luong_local", {"score": "concat"}),
    ("luong_local", {"score": "dot", "window": 2}),
    ("bahdanau", {"bias": True, "hidden": 5}),
    *[(name, {"heads": 2}) for name in MULTI_HEADS],
    *[(name, {"heads": 4, "kv_heads": 2, "causal": True}) for name in MULTI_HEADS],
    ("mha", {"heads": 2, "rotary": True, "bias": True}),
    ("mha", {"heads": 2, "inner": 12}),
    *[(name, {"latents": 3, "width": 6, "heads": heads}) for name in LATENTS for heads in (1, 2)],
]
HEADS = [{"heads": 1}, {"heads": 4}, {"heads": 4, "kv_heads": 2}]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_alignment_weights_are_a_distribution_over_valid_positions(name):
    block = built(name, 8, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    context, weights = block(torch.randn(3, 8), torch.randn(3, 5, 8), mask)
    assert context.shape == (3, 8)
    assert bool((weights >= 0).all())
    assert not weights[~mask].any()
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 1.0, 0.0]), rtol=0, atol=1e-6)  # float32 softmax
    assert not context[2].any()


@pytest.mark.parametrize("name", LOCALS)
def test_local_weights_are_less_than_a_distribution_over_valid_positions(name):
    block = built(name, 8, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    context, weights = block(torch.randn(3, 8), torch.randn(3, 5, 8), mask)
    assert context.shape == (3, 8)
    assert bool((weights >= 0).all())
    assert not weights[~mask].any()
    assert bool((weights[:2].sum(1) > 0).all())
    assert bool((weights.sum(1) <= 1 + 1e-6).all())  # float32 softmax
    assert not context[2].any()


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_the_context_is_the_memory_under_the_weights(name):
    block, memory, mask = built(name, 8, 6), torch.randn(2, 5, 6), torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    context, weights = block(torch.randn(2, 8), memory, mask)
    # float32: the same sum in another order
    torch.testing.assert_close(context, (weights.unsqueeze(2) * memory).sum(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MULTI_HEADS)
@pytest.mark.parametrize("options", HEADS)
def test_every_head_weighs_valid_positions_with_a_sum_of_one_or_nothing(name, options):
    block, query = built(name, 8, 6, **options), torch.randn(3, 4, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    output, weights = block(query, torch.randn(3, 5, 6), mask)
    assert output.shape == query.shape
    assert weights.shape == (3, options["heads"], 4, 5)
    assert bool((weights >= 0).all())
    assert not weights.permute(0, 3, 1, 2)[~mask].any()
    wanted = torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1).expand(3, options["heads"], 4)
    torch.testing.assert_close(weights.sum(3), wanted, rtol=0, atol=1e-6)  # float32 softmax
    assert not output[2].any()


@pytest.mark.parametrize("name", MULTI_HEADS)
@pytest.mark.parametrize("options", HEADS)
def test_a_causal_mask_never_looks_ahead(name, options):
    block, x = built(name, 8, 8, causal=True, **options), torch.randn(2, 6, 8)
    mask = torch.ones(2, 6, dtype=torch.bool)
    output, weights = block(x, x, mask)
    assert not weights.triu(1).any()
    changed = x.clone()
    changed[:, 4:] = torch.randn(2, 2, 8)
    again, _ = block(changed, changed, mask)
    # float32, same shapes, same kernels: what lies before is not touched at all
    assert torch.equal(again[:, :4], output[:, :4])
    assert not torch.allclose(again[:, 4:], output[:, 4:])


@pytest.mark.parametrize("name", MULTI_HEADS)
@pytest.mark.parametrize("options", HEADS)
@pytest.mark.parametrize("causal", [False, True])
def test_multi_head_equals_pytorchs_own_attention(name, options, causal):
    block, x = built(name, 8, 8, causal=causal, **options), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    visible = mask[:, None, None, :] & (torch.ones(5, 5, dtype=torch.bool).tril() if causal else torch.tensor(True))
    q, k, v = (part(x).unflatten(2, (-1, 8 // options["heads"])).transpose(1, 2) for part in _maps(block))
    shared = q.shape[1] != k.shape[1]
    heads = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=shared)
    # float32: a fused kernel sums in another order
    expected = block.output(heads.transpose(1, 2).flatten(2))
    torch.testing.assert_close(block(x, x, mask)[0], expected, rtol=1e-5, atol=1e-6)


def _maps(block):
    return block.query, block.key, block.value


@pytest.mark.parametrize("name", LATENTS)
@pytest.mark.parametrize("heads", [1, 2])
def test_every_latent_weighs_valid_positions_with_a_sum_of_one_or_nothing(name, heads):
    block, mask = built(name, 8, latents=3, width=6, heads=heads), torch.arange(5) < torch.tensor([[5], [2], [0]])
    memory = torch.randn(3, 5, 8)
    output, weights = block(memory, mask)
    assert output.shape == (3, 3, 6)
    assert weights.shape == (3, heads, 3, 5)
    assert bool((weights >= 0).all())
    assert not weights.permute(0, 3, 1, 2)[~mask].any()
    wanted = torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1).expand(3, heads, 3)
    torch.testing.assert_close(weights.sum(3), wanted, rtol=0, atol=1e-6)  # float32 softmax
    assert bool(torch.isfinite(output).all())


@pytest.mark.parametrize("name", LATENTS)
def test_latents_that_may_read_nothing_do_not_depend_on_the_memory(name):
    block, mask = built(name, 8, latents=3, width=6), torch.tensor([[False] * 4, [True] * 4])
    first, second = (block(torch.randn(2, 4, 8), mask)[0] for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert not torch.allclose(first[1], second[1])


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_padding_the_memory_changes_nothing(name, options):
    block, inputs = attending(name, **options), drawn(name, 2, 3, 4)
    *query, memory, mask = inputs.values()
    longer = torch.cat((memory, 9 * torch.randn(2, 3, 8)), 1)
    padded, weights = block(*query, longer, torch.cat((mask, torch.zeros(2, 3, dtype=torch.bool)), 1))
    plain, short = block(*query, memory, mask)
    assert not weights[..., 4:].any()
    # float32; masked positions add exact zeros, but a longer sum may be cut into other blocks
    torch.testing.assert_close(weights[..., :4], short, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_exported_it_agrees_with_eager_at_every_batch_and_length(name, options, engine):
    from edgeattn.standard import assert_standard

    block, program = attending(name, **options), exported(name, **options)
    assert_standard(program, "export")
    session = opened(program, engine)["main"]
    for sizes in [(1, 1, 1), (2, 3, 5), (3, 6, 11)]:
        inputs = drawn(name, *sizes)
        with torch.inference_mode():
            expected = block(*inputs.values())
        actual = session.run({key: value.numpy() for key, value in inputs.items()})
        for key, ours in zip(("output", "weights"), expected, strict=True):
            # float32 on both sides, other kernels; the last row of every batch above 1 is fully masked
            np.testing.assert_allclose(actual[key], ours.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_exported_it_is_recognised_as_what_it_is(name, options):
    kind = {"luong_local": "luong", "latent": "mha"}.get(name, name)
    (found,) = recognise(exported(name, **options).graphs["main"])
    assert found.kind == kind
    assert found.local == (name == "luong_local")
    if kind == "luong":
        assert found.score == options.get("score", "general")


@pytest.mark.onnxruntime
@pytest.mark.parametrize("name", ["luong", "luong_local"])
def test_the_exported_concat_score_is_split_by_its_rule(name):
    from tests.rewrite.engine import open_plain

    program = exported(name, score="concat")
    result = rewrite.rewrite(program, open_plain)
    (record,) = [r for r in result.history[-1].notes["rules"] if r["rule"] == "split_concat_score"]
    assert record["count"] == 1
    assert "undone" not in record
    operators = {n.op_type for n in result.graphs["main"].graph.node}
    assert not {"Concat", "Expand"} & operators, operators


@functools.cache
def exported(name, **options):
    """The program of one attention over a memory; batch and both lengths are free."""
    query = TensorSpec("query", "float32", ("batch", "target", 8) if name in MULTI_HEADS else ("batch", 8))
    memory = TensorSpec("memory", "float32", ("batch", "source", 8))
    mask = TensorSpec("mask", "bool", ("batch", "source"))
    inputs = (memory, mask) if name in LATENTS else (query, memory, mask)
    block = attending(name, **options)
    return export(Source({"main": GraphSource(block, inputs, ("output", "weights"))}))
