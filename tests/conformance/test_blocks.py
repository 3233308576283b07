"""What every attention block must do, whichever it is; gates and attention over a memory have files of their own."""

import inspect

import pytest

torch = pytest.importorskip("torch")

from edgeattn import registry
from edgeattn.blocks import Block
from tests.conformance.blocks import BLOCKS, GATES, attending, built, drawn

pytestmark = pytest.mark.torch

KINDS = {"channel", "spatial", "channel+spatial", "alignment", "local alignment", "multi-head", "latent"}


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
