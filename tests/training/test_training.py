import importlib
import inspect

import pytest
import torch

from edgeattn import models, registry, training, weights
from edgeattn.tasks import dates, digits
from edgeattn.training import dates as dates_training
from edgeattn.training import digits as digits_training
from edgeattn.training import numbers as numbers_training
from edgeattn.training._optimise import forced_logits

pytestmark = pytest.mark.torch


def built(name):
    family, config = models.find(name)
    return family.build(**config.options)


def test_two_epochs_on_digits_beat_chance_by_far():
    net = built("resnet_digits")
    digits_training.fit(net, epochs=2)
    assert training.evaluate(models.find("resnet_digits")[0], net.eval(), digits.TASK) > 0.3  # chance is 0.1


def test_training_on_digits_repeats_exactly(monkeypatch):
    images, labels = digits.load("train")
    monkeypatch.setitem(digits._cache, "train", (images[:64], labels[:64]))
    nets = [built("cbam_digits") for _ in range(2)]
    for net in nets:
        digits_training.fit(net, epochs=2, batch=32)
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["head.weight"], built("cbam_digits").head.weight)


@pytest.mark.parametrize(("name", "recipe"), [("luong_dates", dates_training), ("bahdanau_numbers", numbers_training)])
def test_a_short_training_of_a_translator_starts_from_chance_and_repeats_exactly(name, recipe, caplog):
    nets = [built(name) for _ in range(2)]
    for net in nets:
        with caplog.at_level("INFO", logger="edgeattn.training"):
            recipe.fit(net, steps=3, batch=16)
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "step 0 of 3, loss 2." in caplog.text  # about ln 13 and ln 12: nothing is known yet


def test_distorted_digits_keep_shape_range_and_repeat_by_seed():
    images = torch.from_numpy(digits.load("train")[0][:8])
    first, second = (digits_training.distort(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == images.shape
    # bilinear sampling stays within the values it mixes, up to float32 rounding
    assert first.min() >= images.min() - 1e-5
    assert first.max() <= images.max() + 1e-5
    assert not torch.equal(first, images)


def test_the_score_is_that_of_decoding_as_an_engine_will():
    family, config = models.find("luong_dates")
    net, task = family.build(**config.options).eval(), registry.get("tasks", "dates")
    weights.load(net, "luong_dates")
    with torch.no_grad():
        net.step.output.weight.mul_(0.25)  # make it err now and then, so that agreement means something
        net.step.output.bias.add_(torch.randn(13, generator=torch.Generator().manual_seed(0)))
    batch = next(task.test(200, 200))
    logits = forced_logits(net, batch.feeds, torch.from_numpy(batch.targets), dates.START)
    # Greedy decoding gives the target exactly when teacher forcing does: both see the same prefixes.
    forced = task.score({"tokens": logits.argmax(-1).numpy()}, batch.targets).mean()
    assert 0 < forced < 1
    assert training.evaluate(family, net, task, samples=200) == pytest.approx(forced)


@pytest.mark.parametrize("name", training.trained())
def test_every_trained_task_says_how_it_is_trained_and_takes_what_the_configuration_changes(name):
    _, config = models.find(name)
    fit = importlib.import_module(f"edgeattn.training.{config.task}").fit
    assert set(config.training) <= set(inspect.signature(fit).parameters) - {"net"}


def test_the_command_names_an_unknown_configuration(tmp_path, caplog):
    assert training.main(["cbam_digit", "--out", str(tmp_path)]) == 2
    assert "unknown trained configuration 'cbam_digit'; did you mean 'cbam_digits'" in caplog.text
    assert not list(tmp_path.iterdir())
