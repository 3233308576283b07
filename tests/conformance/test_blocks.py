"""What every attention block must do, whichever it is."""

import inspect

import numpy as np
import pytest
import torch

from edgeattn import backends, decode, registry
from edgeattn.blocks import Block
from edgeattn.export import export
from edgeattn.models import GraphSource, Source
from edgeattn.program import TensorSpec
from edgeattn.recognise import recognise

pytestmark = pytest.mark.torch

BLOCKS = registry.names("blocks")
GATES = [name for name in BLOCKS if registry.get("blocks", name).kind != "alignment"]
ALIGNMENTS = [name for name in BLOCKS if name not in GATES]


def built(name, *sizes):
    torch.manual_seed(0)
    return registry.get("blocks", name).build(*sizes).eval()


@pytest.mark.parametrize("name", BLOCKS)
def test_is_registered_under_its_file_name_with_a_known_kind(name):
    block = registry.get("blocks", name)
    assert isinstance(block, Block)
    assert block.name == name
    assert block.kind in {"channel", "spatial", "channel+spatial", "alignment"}


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


@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignment_weights_are_a_distribution_over_valid_positions(name):
    block = built(name, 8, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    context, weights = block(torch.randn(3, 8), torch.randn(3, 5, 8), mask)
    assert context.shape == (3, 8)
    assert bool((weights >= 0).all())
    assert not weights[~mask].any()
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 1.0, 0.0]), rtol=0, atol=1e-6)  # float32 softmax
    assert not context[2].any()


@pytest.mark.parametrize("name", BLOCKS)
def test_gradients_reach_the_features_and_every_parameter(name):
    alignment = name in ALIGNMENTS
    block = built(name, 16, 16) if alignment else built(name, 16)
    features = torch.randn((2, 4, 16) if alignment else (2, 16, 5, 5), requires_grad=True)
    if alignment:
        output = block(torch.randn(2, 16), features, torch.ones(2, 4, dtype=torch.bool))[0]
    else:
        output = block(features)
    output.square().sum().backward()
    # A mechanism may have no parameters; the features always learn through it.
    for learner in (features, *block.parameters()):
        assert learner.grad is not None
        assert torch.isfinite(learner.grad).all()
    assert features.grad.any()


class Behind(torch.nn.Module):
    """A block behind a convolution, as in a network: its features are no graph input."""

    def __init__(self, block):
        super().__init__()
        self.stem, self.block = torch.nn.Conv2d(3, 16, 3, padding=1), block

    def forward(self, image):
        return self.block(self.stem(image))


@pytest.fixture(scope="module", params=GATES)
def exported(request):
    """``(name, Program)`` of a block behind a convolution, with dynamic batch."""
    inputs = (TensorSpec("image", "float32", ("batch", 3, 9, 6)),)
    return request.param, export(Source({"main": GraphSource(Behind(built(request.param, 16)).eval(), inputs, ("y",))}))


@pytest.mark.onnxruntime
def test_exports_with_a_dynamic_batch_and_keeps_eagers_numbers(exported):
    _, program = exported
    sessions = backends.oracle(program)
    batches = set()
    for case in program.reference.cases:
        batches.add(case.feeds["image"].shape[0])
        expected, actual = case.outputs["y"], decode.run(sessions, None, case.feeds)["y"]
        # float32 on both sides: sums of at most a few hundred products in another order
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-6 * max(1.0, np.abs(expected).max()))
    assert len(batches) > 1


# A mechanism the recogniser has no kind for must not be taken for another one.
RECOGNISED = {"cam": ["cam"], "cbam": ["cbam"], "eca": ["eca"], "sam": ["sam"], "se": ["se"]}


def test_is_recognised_as_what_it_is_or_not_at_all(exported):
    name, program = exported
    found = recognise(program.graphs["main"])
    assert [a.kind for a in found] == RECOGNISED.get(name, [])
    assert all(a.channels == 16 for a in found)
