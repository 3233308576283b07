"""What every attention block must do, whichever it is."""

import functools
import inspect

import numpy as np
import pytest
import torch

from edgeattn import decode, registry, rewrite
from edgeattn.backends import Options
from edgeattn.blocks import Block
from edgeattn.export import export
from edgeattn.graphs import GraphIndex
from edgeattn.harness import parity
from edgeattn.models import GraphSource, Source
from edgeattn.program import QdqDialect, TensorSpec
from edgeattn.quantize import Settings, attention_policy, quantize
from edgeattn.quantize._plan import plan
from edgeattn.recognise import recognise

pytestmark = pytest.mark.torch

KINDS = {"channel", "spatial", "channel+spatial", "alignment", "local alignment", "multi-head", "latent"}
BLOCKS = registry.names("blocks")


ENGINES = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in ("onnxruntime", "openvino")]


def of_kind(*kinds):
    return [name for name in BLOCKS if registry.get("blocks", name).kind in kinds]


GATES = [name for name in BLOCKS if registry.get("blocks", name).gates]
DISTRIBUTIONS = of_kind("alignment")
LOCALS = of_kind("local alignment")
ALIGNMENTS = [*DISTRIBUTIONS, *LOCALS]
MULTI_HEADS = of_kind("multi-head")
LATENTS = of_kind("latent")
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


def built(name, *sizes, **options):
    torch.manual_seed(0)
    return registry.get("blocks", name).build(*sizes, **options).eval()


@pytest.mark.parametrize("name", BLOCKS)
def test_is_registered_under_its_file_name_with_a_known_kind(name):
    block = registry.get("blocks", name)
    assert isinstance(block, Block)
    assert block.name == name
    assert block.kind in KINDS


@pytest.mark.parametrize("name", BLOCKS)
def test_its_card_gives_the_equation_the_source_and_the_deviations(name):
    card = registry.card("blocks", name)
    assert "Source: " in card
    assert "section" in card
    assert "Deviations: " in card
    assert " = " in card
    assert "(B, " in card


@pytest.mark.parametrize("name", BLOCKS)
def test_its_file_stays_small(name):
    lines = inspect.getsource(inspect.getmodule(registry.get("blocks", name).build)).count("\n")
    assert lines < 300


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("shape", [(1, 32, 7, 7), (2, 32, 8, 5), (3, 32, 1, 1)])
def test_gating_keeps_the_shape_at_any_size(name, shape):
    assert built(name, 32)(torch.randn(shape)).shape == shape


@pytest.mark.parametrize("name", GATES)
def test_gates_lie_between_zero_and_one_and_can_be_hooked(name):
    block, masks = built(name, 32), []
    for path, module in block.named_modules():
        if path.split(".")[-1] == "gate":
            module.register_forward_hook(lambda module, inputs, output: masks.append(output))
    x = 3 * torch.randn(2, 32, 6, 6)
    gated = block(x)
    assert masks, f"{name} has no submodule called 'gate'"
    assert all(mask.min() >= 0 and mask.max() <= 1 for mask in masks)
    if registry.get("blocks", name).residual:
        assert bool((gated.abs() >= x.abs()).all())
        assert bool((gated.abs() <= 2 * x.abs()).all())
    else:
        assert bool((gated.abs() <= x.abs()).all())


@pytest.mark.parametrize("name", GATES)
def test_gating_in_eval_mode_is_deterministic_and_independent_of_the_batch(name):
    block, x = built(name, 32), torch.randn(3, 32, 6, 6)
    first = block(x)
    assert torch.equal(first, block(x))
    # float32: a batch of one may take another kernel
    torch.testing.assert_close(first[1:2], block(x[1:2]), rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_reach_the_features_and_every_parameter(name):
    if name in GATES:
        block, features = built(name, 16), torch.randn(2, 16, 5, 5, requires_grad=True)
        output = block(features)
    else:
        block, (*query, features, mask) = attending(name), drawn(name, 2, 3, 4).values()
        output = block(*query, features.requires_grad_(), mask)[0]
    output.square().sum().backward()
    # A mechanism may have no parameters; the features always learn through it.
    for learner in (features, *block.parameters()):
        assert learner.grad is not None
        assert torch.isfinite(learner.grad).all()
    assert features.grad.any()


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


def attending(name, **options):
    """An attention over a memory of width 8, with queries as wide unless it has its own."""
    return built(name, *([8] if name in LATENTS else [8, 8]), **options)


def drawn(name, batch, steps, length):
    """Inputs of an attention over a memory, ragged; of several rows, the last is fully masked."""
    torch.manual_seed(1)
    lengths = torch.arange(batch - 1, -1, -1) * length // (batch - 1) if batch > 1 else torch.tensor([length])
    mask = torch.arange(length) < lengths.unsqueeze(1)
    query = torch.randn(batch, steps, 8) if name in MULTI_HEADS else torch.randn(batch, 8)
    own = {} if name in LATENTS else {"query": query}
    return {**own, "memory": torch.randn(batch, length, 8), "mask": mask}


def opened(program, engine):
    """The sessions of a program in an engine, with its own optimisations on."""
    backend = registry.get("backends", engine)
    return {name: backend.load(model, Options("cpu", threads=1)) for name, model in program.graphs.items()}


@functools.cache
def exported(name, **options):
    """The program of one attention over a memory; batch and both lengths are free."""
    query = TensorSpec("query", "float32", ("batch", "target", 8) if name in MULTI_HEADS else ("batch", 8))
    memory = TensorSpec("memory", "float32", ("batch", "source", 8))
    mask = TensorSpec("mask", "bool", ("batch", "source"))
    inputs = (memory, mask) if name in LATENTS else (query, memory, mask)
    block = attending(name, **options)
    return export(Source({"main": GraphSource(block, inputs, ("output", "weights"))}))


class Behind(torch.nn.Module):
    """A block behind a convolution, as in a network: its features are no graph input."""

    def __init__(self, block):
        super().__init__()
        self.stem, self.block = torch.nn.Conv2d(3, 16, 3, padding=1), block

    def forward(self, image):
        return self.block(self.stem(image))


@pytest.fixture(scope="module", params=GATES)
def behind_a_convolution(request):
    """``(name, Program)`` of a block behind a convolution, with dynamic batch."""
    inputs = (TensorSpec("image", "float32", ("batch", 3, 9, 6)),)
    return request.param, export(Source({"main": GraphSource(Behind(built(request.param, 16)).eval(), inputs, ("y",))}))


@pytest.mark.parametrize("engine", ENGINES)
def test_exports_with_a_dynamic_batch_and_keeps_eagers_numbers(behind_a_convolution, engine):
    _, program = behind_a_convolution
    sessions = opened(program, engine)
    batches = set()
    for case in program.reference.cases:
        batches.add(case.feeds["image"].shape[0])
        expected, actual = case.outputs["y"], decode.run(sessions, None, case.feeds)["y"]
        # float32 on both sides: sums of at most a few hundred products in another order
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-6 * max(1.0, np.abs(expected).max()))
    assert len(batches) > 1


# A mechanism the recogniser has no kind for must not be taken for another one.
RECOGNISED = {name: [name] for name in ("bam", "cam", "cbam", "coordinate", "eca", "sam", "se")}


def test_is_recognised_as_what_it_is_or_not_at_all(behind_a_convolution):
    name, program = behind_a_convolution
    found = recognise(program.graphs["main"])
    assert [a.kind for a in found] == RECOGNISED.get(name, [])
    assert all(a.channels == 16 for a in found)


@pytest.mark.onnxruntime
def test_under_the_gate_policy_none_of_its_weights_becomes_int8_rewritten_or_not(behind_a_convolution):
    from tests.rewrite.engine import open_plain

    name, program = behind_a_convolution
    for graph in (program.graphs["main"], rewrite.rewrite(program, open_plain).graphs["main"]):
        assert [a.kind for a in recognise(graph)] == RECOGNISED.get(name, [])
        chosen = plan(graph, Settings())
        assert len(chosen.weights) == 1, "the stem's"
        own = any(True for _ in built(name, 16).parameters())  # a mechanism may have none, and then nothing to keep
        assert set(chosen.kept.values()) == ({"inside an attention gate (policy gate=float)"} if own else set())


@pytest.mark.onnxruntime
@pytest.mark.parametrize(("unsigned", "levels"), [(False, 127), (True, 255)])
def test_an_int8_gate_has_the_scale_that_its_range_says_and_shares_it_with_nothing(
    behind_a_convolution, unsigned, levels
):
    from tests.rewrite.engine import open_plain

    name, program = behind_a_convolution
    float32 = rewrite.rewrite(program, open_plain)
    products = attention_policy(float32.graphs["main"], "int8").products
    assert len(products) == {"cbam": 2, "coordinate": 2}.get(name, len(RECOGNISED.get(name, [])))
    if not products:
        return
    assert {p.peak for p in products} == {1.0}
    cases = [c for c in program.reference.cases if c.name.startswith("normal")]
    settings = Settings("int8", qdq=QdqDialect(unsigned=unsigned, requantize_conv_outputs=unsigned))
    int8 = quantize(float32, "int8-static", open_plain, iter(cases), settings)
    index = GraphIndex(int8.graphs["main"])
    assert not [n.name for n in index.nodes if n.op_type == "DequantizeLinear" and n.output[0] not in index.consumers]
    for product in products:
        features, mask = (index.producer[n] for n in index.producer[product.output].input)
        if mask.input[0] != f"{product.mask}_q":
            features, mask = mask, features
        assert [n.op_type for n in (features, mask)] == ["DequantizeLinear"] * 2
        assert float(index.constant(mask.input[1])) == pytest.approx(1 / levels, rel=1e-6)
        assert features.input[1] != mask.input[1]
        assert not index.constant(mask.input[2])
    sessions, limits = open_plain(int8), parity.Limits.of("int8")
    judged = parity.judge("quantize", lambda c: decode.run(sessions, None, c.feeds), cases, limits)
    assert judged.outputs["y"].verdict == "pass", judged.outputs["y"].observed
