import json
import math
import sys

import numpy as np
import pytest

from edgeattn.errors import BadInput
from edgeattn.tasks import text


@pytest.fixture
def corpus(monkeypatch):
    """Three topics of which one is held out, in place of the language reference."""
    names = [n for n in map(str, range(100)) if text.held_out(n)][:1] + [
        n for n in map(str, range(100)) if not text.held_out(n)
    ][:2]
    shared = "This paragraph stands in two topics, in one of them it is held out."
    own = [f"The {word} topic says {word} again and again, as no other does." for word in ("first", "second", "third")]
    topics = {name: f"{own[i]}\n\n{shared}\n\n   >>> code = [1, 2, 3]" for i, name in enumerate(names)}
    monkeypatch.setattr(text, "_topics", lambda: topics)
    text.streams.cache_clear()
    yield topics
    text.streams.cache_clear()


def joined(part):
    return ["".join("�" if t == text.UNKNOWN else text.TOKENS[t] for t in stream) for stream in text.streams(part)]


def outputs_for(logits):
    """A decode loop's outputs from logits ``(B, T, V)``."""
    return {"prefill.logits": logits[:, 0], "logits": logits[:, 1:].swapaxes(0, 1)}


def test_normalised_text_is_lower_case_ascii_with_single_spaces_and_a_paragraph_a_line():
    assert text.normalise("It’s “Here” —\n  now…\n\n  Next") == 'it\'s "here" - now...\nnext'


def test_the_alphabet_has_no_two_alike_and_normalised_characters_only():
    assert len(set(text.TOKENS)) == len(text.TOKENS)
    assert all(len(t) == 1 and t == t.lower() and t.isascii() for t in text.TOKENS[2:])


def test_what_the_alphabet_lacks_is_unknown_and_rare():
    assert text.encode("a£b").tolist() == [text.TOKENS.index("a"), text.UNKNOWN, text.TOKENS.index("b")]
    stream = np.concatenate(text.streams("train"))
    assert 0 < (stream == text.UNKNOWN).mean() < 0.01


def test_train_and_test_share_no_topic_and_no_paragraph(corpus):
    (test,), train = joined("test"), joined("train")
    assert "first topic" in test
    assert "stands in two topics" in test
    assert len(train) == 2
    assert not any("first topic" in t or "stands in two topics" in t for t in train)


def test_code_is_no_prose_and_topics_end_with_the_end_token(corpus):
    for stream in joined("test") + joined("train"):
        assert "code" not in stream
        assert stream.endswith("\n</s>")
        assert stream.count("</s>") == 1


def test_real_train_and_test_paragraphs_are_disjoint():
    train, test = (set("\n".join(joined(part)).split("\n")) - {"</s>"} for part in ("train", "test"))
    assert not {p for p in train & test if len(p) >= 40}


def test_a_topic_is_held_out_by_its_name_alone():
    assert text.held_out("typesseq")
    assert not text.held_out("specialnames")
    assert 0.05 < np.mean([text.held_out(str(n)) for n in range(2000)]) < 0.2


def test_a_sample_is_a_prompt_its_continuation_and_what_is_fed():
    batch = next(text.TASK.test(3, 3))
    assert batch.feeds["tokens"].shape == (3, text.PROMPT)
    assert batch.feeds["mask"].all()
    assert batch.targets.shape == (3, text.CONTINUATION)
    assert np.array_equal(batch.tokens, batch.targets[:, :-1])
    whole = np.concatenate((batch.feeds["tokens"], batch.targets), 1)
    assert any(text.decode(whole)[0] in stream for stream in joined("test"))


def test_there_are_some_hundred_samples_and_no_two_alike():
    rows = text.windows("test")
    assert 200 <= len(rows) <= text.SAMPLES
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_a_score_is_the_mean_negative_log_likelihood_of_its_characters():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 4, 6)), rng.integers(0, 6, (2, 4))
    expected = [
        -np.mean([math.log(math.exp(logits[b, t, targets[b, t]]) / np.exp(logits[b, t]).sum()) for t in range(4)])
        for b in range(2)
    ]
    # float64 on both sides
    np.testing.assert_allclose(text.score(outputs_for(logits), targets), expected, rtol=1e-12)


def test_a_uniform_guess_has_the_perplexity_of_the_alphabet_and_large_logits_do_not_overflow():
    targets = np.zeros((1, 3), np.int64)
    (guess,) = text.score(outputs_for(np.zeros((1, 3, 55))), targets)
    assert text.TASK.metric.figure(guess) == pytest.approx(55)
    sure = np.full((1, 3, 55), -1e4, np.float32)
    sure[..., 0] = 1e4
    assert text.score(outputs_for(sure), targets).tolist() == [0.0]


def test_predictions_are_the_likeliest_characters_of_prompt_and_steps():
    logits = np.zeros((2, 3, 5))
    for b, t, best in [(0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 0, 4), (1, 1, 4), (1, 2, 0)]:
        logits[b, t, best] = 1
    outputs = outputs_for(logits)
    assert text.predict(outputs, 2) == [(1, 2, 3), (4, 4, 0)]
    assert text.right(outputs, np.array([[1, 2, 0], [4, 4, 0]])).tolist() == [pytest.approx(2 / 3), 1.0]


def test_the_unigram_baseline_is_that_of_smoothed_frequencies():
    train, rows = np.concatenate(text.streams("train")), text.windows("test")[:, text.PROMPT :]
    counts = np.bincount(train, minlength=len(text.TOKENS))
    seen = np.count_nonzero(counts)
    smoothed = (counts + seen / len(text.TOKENS)) / (counts.sum() + seen)
    # float64; the same few thousand logarithms in another order
    assert text.baselines((0,))[0] == pytest.approx(np.exp(-np.log(smoothed[rows]).mean()), rel=1e-9)


def test_longer_histories_predict_better():
    figures = text.baselines((0, 1, 2))
    assert 55 > figures[0] > figures[1] > figures[2] > 1


def test_the_probabilities_of_a_baseline_add_up_to_one():
    counts = text._counts(2)
    for history in [(), (3,), (3, 40), (50, 51)]:
        # 55 float64 additions
        assert sum(text._likelihood(counts, history, t) for t in range(55)) == pytest.approx(1, abs=1e-12)


def test_prompts_are_padded_at_the_end():
    feeds = text.prompts(["The  statement", "If", ""])
    assert feeds["mask"].sum(1).tolist() == [13, 2, 0]
    assert text.decode(feeds["tokens"])[:2] == ["the statement", "if"]


def test_nothing_to_continue_is_refused():
    with pytest.raises(BadInput, match="no text to continue; give at least one"):
        text.prompts([])


def test_a_python_without_its_language_reference_is_told_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    text.streams.cache_clear()
    with pytest.raises(
        BadInput, match=r"comes without its language reference \(pydoc_data.topics\); use a Python that"
    ):
        text.streams("train")


def test_the_vocabulary_suffices_to_encode_without_this_package():
    vocabulary = json.loads(text.assets()["vocabulary.json"])
    ids = {token: index for index, token in enumerate(vocabulary["tokens"])}
    assert text.encode("x £\n").tolist() == [ids["x"], ids[" "], vocabulary["unknown"], ids["\n"]]
