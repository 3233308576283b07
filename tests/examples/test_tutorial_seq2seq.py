"""The tutorial's translator: its two graphs decode what its own Python loop does."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgeattn import decode, tasks, theirs
from edgeattn.export import eager_sessions
from edgeattn.source import resolve
from tests.conftest import ROOT

pytestmark = pytest.mark.torch

PLACE = str(ROOT / "examples" / "tutorial_seq2seq.py")
END = 1


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (904, "nine hundred and four"),
        (1042, "one thousand and forty two"),
        (7100, "seven thousand one hundred"),
        (9999, "nine thousand nine hundred and ninety nine"),
    ],
)
def test_numbers_are_spelt_as_people_do(number: int, text: str) -> None:
    assert theirs.load(f"{PLACE}:spell", "function")(number) == text


def test_no_number_is_in_both_splits_and_each_has_a_spelling_of_its_own() -> None:
    split, spell = (theirs.load(f"{PLACE}:{name}", "function") for name in ("split", "spell"))
    assert not set(split("train")) & set(split("test"))
    assert len({spell(n) for n in range(10_000)}) == 10_000


def test_the_two_graphs_give_the_tokens_and_logits_of_the_python_loop() -> None:
    source = resolve(f"{PLACE}:translator").source
    module = theirs.load(f"{PLACE}:Translator", "class")().eval()
    for name, part in (("encoder", module.encoder), ("step", module.decoder)):
        part.load_state_dict(source.graphs[name].module.state_dict())
    batch = next(tasks.find(PLACE).test(200, 200))
    sessions = eager_sessions(source)
    with torch.inference_mode():
        src = torch.from_numpy(batch.feeds["src"])
        logits = module(src).transpose(0, 1).numpy()
        tokens = logits.argmax(2).T
    decoded = decode.run(sessions, source.wiring, batch.feeds)["tokens"]
    ended = np.cumsum(tokens == END, axis=1) - (tokens == END) > 0  # the loop runs on after an end, ours repeats it
    np.testing.assert_array_equal(decoded, np.where(ended, END, tokens)[:, : decoded.shape[1]])
    forced = np.concatenate([np.zeros((200, 1), np.int64), tokens[:, :-1]], axis=1)
    found = decode.run(sessions, source.wiring, batch.feeds, forced)["logits"]
    np.testing.assert_array_equal(found, logits)  # the same modules on the same numbers


def test_it_reads_numbers_it_has_not_seen() -> None:
    source, task = resolve(f"{PLACE}:translator").source, tasks.find(PLACE)
    sessions = eager_sessions(source)
    scores = [task.score(decode.run(sessions, source.wiring, b.feeds), b.targets) for b in task.test(None, 250)]
    assert np.concatenate(scores).mean() >= 0.97
