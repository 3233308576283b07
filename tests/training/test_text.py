import pytest
import torch
from torch.nn import functional

from edgeattn import models, training
from edgeattn.models import gpt
from edgeattn.tasks import text
from edgeattn.training import text as text_training

pytestmark = pytest.mark.torch


def small():
    return gpt.Gpt(len(text.TOKENS), 128, 16, 1, 2, positions="rotary")


def test_a_short_training_on_prose_starts_at_a_uniform_guess_and_repeats_exactly(caplog):
    nets = [small() for _ in range(2)]
    for net in nets:
        with caplog.at_level("INFO", logger="edgeattn.training"):
            text_training.fit(net, steps=3, batch=4, window=16)
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "step 0 of 3, loss 4.0" in caplog.text  # ln 55 = 4.007: nothing is known yet


def test_a_few_steps_learn_more_than_frequencies():
    net = small()
    text_training.fit(net, steps=150, batch=8, window=64, peak_rate=1e-2)
    assert training.evaluate(gpt.MODEL, net.eval(), text.TASK, samples=50) < text.baselines((0,))[0]


def test_the_score_is_that_of_one_pass_over_the_whole_text():
    net = small().eval()
    batch = next(text.TASK.test(20, 20))
    whole = torch.from_numpy(text.windows("test")[:20])
    logits = net(whole[:, :-1], torch.ones(20, whole.shape[1] - 1, dtype=torch.bool))[:, text.PROMPT - 1 :]
    nats = functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.targets).flatten())
    # float32 logits summed in another order
    assert training.evaluate(gpt.MODEL, net, text.TASK, samples=20) == pytest.approx(nats.exp().item(), rel=1e-5)


def test_the_trained_configuration_fits_the_alphabet_and_the_samples():
    _, config = models.find("gpt_text")
    assert config.options["vocabulary"] == len(text.TOKENS)
    assert config.options["longest"] >= text.PROMPT + text.CONTINUATION
