import pytest
import torch

from edgeattn import models, weights
from edgeattn.tasks import digits
from edgeattn.weights import train

pytestmark = pytest.mark.torch


def built(name):
    family, config = models.find(name)
    return family.build(**config.options)


def test_two_epochs_on_digits_beat_chance_by_far():
    net = built("resnet_digits")
    train.train_digits(net, epochs=2)
    assert train.evaluate(net.eval(), digits.TASK) > 0.3  # chance is 0.1


def test_training_on_digits_repeats_exactly(monkeypatch):
    images, labels = digits.load("train")
    monkeypatch.setitem(digits._cache, "train", (images[:64], labels[:64]))
    nets = [built("cbam_digits") for _ in range(2)]
    for net in nets:
        train.train_digits(net, epochs=2, batch=32)
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["head.weight"], built("cbam_digits").head.weight)


def test_a_short_training_on_dates_lowers_the_loss_and_repeats_exactly(caplog):
    nets = [built("luong_dates") for _ in range(2)]
    for net in nets:
        with caplog.at_level("INFO", logger="edgeattn.weights.train"):
            train.train_dates(net, steps=3, batch=16)
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "step 0 of 3, loss 2." in caplog.text  # about ln 13: nothing is known yet


def test_distorted_digits_keep_shape_range_and_repeat_by_seed():
    images = torch.from_numpy(digits.load("train")[0][:8])
    first, second = (train.distort(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == images.shape
    # bilinear sampling stays within the values it mixes, up to float32 rounding
    assert first.min() >= images.min() - 1e-5
    assert first.max() <= images.max() + 1e-5
    assert not torch.equal(first, images)


def test_teacher_forcing_and_greedy_decoding_score_alike():
    from edgeattn import decode, registry
    from edgeattn.export import eager_sessions

    family, config = models.find("luong_dates")
    net, task = family.build(**config.options).eval(), registry.get("tasks", "dates")
    weights.load(net, "luong_dates")
    with torch.no_grad():
        net.step.output.weight.mul_(0.25)  # make it err now and then, so that agreement means something
        net.step.output.bias.add_(torch.randn(13, generator=torch.Generator().manual_seed(0)))
    source = family.source(net)
    batch = next(task.test(200, 200))
    greedy = task.score(decode.run(eager_sessions(source), source.wiring, batch.feeds), batch.targets).mean()
    assert 0 < greedy < 1
    assert train.evaluate(net, task, samples=200) == pytest.approx(greedy)


def test_the_command_names_an_unknown_configuration(tmp_path, caplog):
    assert train.main(["cbam_digit", "--out", str(tmp_path)]) == 2
    assert "unknown trained configuration 'cbam_digit'; did you mean 'cbam_digits'" in caplog.text
    assert not list(tmp_path.iterdir())
