import json

import numpy as np
import pytest

from edgeattn.errors import BadInput
from edgeattn.tasks import numbers

BRITISH = numbers.Spelling(joined=True, hyphen=True, comma=True, article=False)
FIRST_HELD_OUT = [86197, 5764, 235115]
VALUES = {word: value for value, word in enumerate(numbers.UNITS)} | {
    word: 10 * value for value, word in enumerate(numbers.TENS, 2)
}


def evaluated(text):
    """What an English reader makes of a spelling: the grammar read backwards, written apart from the speller."""
    total = group = 0
    for word in text.replace("-", " ").replace(",", " ").split():
        if word == "thousand":
            total, group = 1000 * group, 0
        elif word == "hundred":
            group *= 100
        elif word != "and":
            group += 1 if word == "a" else VALUES[word]
    return total + group


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (407206, "four hundred and seven thousand, two hundred and six"),
        (0, "zero"),
        (13, "thirteen"),
        (42, "forty-two"),
        (100, "one hundred"),
        (1000, "one thousand"),
        (4006, "four thousand and six"),
        (4600, "four thousand, six hundred"),
        (100_000, "one hundred thousand"),
        (999_999, "nine hundred and ninety-nine thousand, nine hundred and ninety-nine"),
    ],
)
def test_spells_as_the_british_do(number, text):
    assert BRITISH(number) == text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"joined": False}, "one hundred forty-two thousand, one hundred one"),
        ({"hyphen": False}, "one hundred and forty two thousand, one hundred and one"),
        ({"comma": False}, "one hundred and forty-two thousand one hundred and one"),
        ({"article": True}, "a hundred and forty-two thousand, one hundred and one"),
    ],
)
def test_each_choice_of_a_spelling_changes_one_thing(change, text):
    choice = {"joined": True, "hyphen": True, "comma": True, "article": False} | change
    assert numbers.Spelling(**choice)(142_101) == text


def test_an_article_stands_for_one_only_where_english_has_it():
    article = numbers.Spelling(joined=True, hyphen=True, comma=True, article=True)
    assert [article(n) for n in (1, 21, 100, 1000, 1100, 2100)] == [
        "one", "twenty-one", "a hundred", "a thousand", "a thousand, one hundred", "two thousand, one hundred",
    ]  # fmt: skip


def test_every_form_of_every_kind_of_number_reads_back():
    drawn = numbers.draw(np.random.RandomState(1), 2000)
    for number in [*range(1200), *range(998_900, 1_000_000), *drawn]:
        for form in numbers.FORMS:
            assert evaluated(form(number)) == number


def test_there_are_sixteen_forms_and_no_two_alike():
    assert len({form(142_042) for form in numbers.FORMS} | {form(142_142) for form in numbers.FORMS}) >= 24
    assert len(set(numbers.FORMS)) == 16


def test_train_and_test_share_no_number():
    held_out = set(numbers.held_out())
    assert len(held_out) == 2500
    assert not held_out & set(numbers.draw(np.random.RandomState(0), 50_000))
    assert not held_out & {int(digits) for _, digits in numbers.pairs("train")}


def test_training_draws_every_length_and_all_the_short_numbers_that_are_not_held_out():
    drawn = set(numbers.draw(np.random.RandomState(0), 100_000))
    assert {n for n in drawn if n < 100} == set(range(100)) - set(numbers.held_out())
    assert max(drawn) > 990_000


def test_the_test_split_has_the_shares_of_lengths_it_promises():
    lengths = [len(str(number)) for number in numbers.held_out()]
    assert tuple(map(lengths.count, range(1, 7))) == numbers.HELD_OUT


def test_the_split_does_not_move():
    assert list(numbers.held_out()[:3]) == FIRST_HELD_OUT


def test_no_text_is_longer_than_the_model_takes_or_outside_its_characters():
    longest = max((form(n) for form in numbers.FORMS for n in (373_373, 377_777, 878_878)), key=len)
    assert len(longest) == numbers.MAX_LENGTH
    for part in ("train", "test"):
        for text, digits in numbers.pairs(part):
            assert len(text) <= numbers.MAX_LENGTH
            assert set(text) <= set(numbers.SOURCE_TOKENS)
            assert len(digits) < numbers.TARGET_LENGTH


def test_short_targets_are_padded_with_the_end_token():
    tokens = numbers.encode_targets(["407206", "7"])
    assert tokens.shape == (2, numbers.TARGET_LENGTH)
    assert tokens[0, -1] == numbers.END
    assert (tokens[1, 1:] == numbers.END).all()
    assert numbers.decode(tokens) == ["407206", "7"]


def test_case_carries_no_meaning():
    plain, shouted = (numbers.encode([text])["src"] for text in ("forty-two", "Forty-TWO"))
    assert np.array_equal(plain, shouted)


def test_a_text_that_is_too_long_is_refused_with_its_length():
    with pytest.raises(BadInput, match=r"text of 74 characters: 'x+'; at most 73 are understood"):
        numbers.encode(["x" * 74])


def test_slots_and_decoded_tokens_are_scored_and_compared_alike():
    targets = numbers.encode_targets(["407206", "7", "12"])
    slots = np.eye(len(numbers.TARGET_TOKENS))[targets]  # (B, K, V), the best of each slot is the target's
    slots[2, 1] = slots[2, 0]
    decoded = targets[:, :3].copy()  # a decoder stops when all have ended; these rows are cut short
    decoded[2, 1] = decoded[2, 0]
    assert numbers.score({"logits": slots}, targets).tolist() == [1, 1, 0]
    assert numbers.score({"tokens": decoded}, targets).tolist() == [0, 1, 0]
    predict = numbers.TASK.predict
    assert predict({"logits": slots}, 3)[1:] == predict({"tokens": decoded}, 3)[1:]


def test_a_read_alignment_is_labelled_with_words_and_digits():
    feeds, tokens = numbers.encode(["six", "forty"]), numbers.encode_targets(["6", "40"])
    assert numbers.read(feeds, tokens) == (("s", "i", "x"), ("6", "⏎"))


def test_the_vocabulary_suffices_to_encode_and_decode_without_this_package():
    vocabulary = json.loads(numbers.assets()["vocabulary.json"])
    text, digits = next(numbers.pairs("test"))
    source = {token: index for index, token in enumerate(vocabulary["source"])}
    assert numbers.encode([text])["src"][0].tolist() == [source[c] for c in text]
    tokens = numbers.encode_targets([digits])[0].tolist()
    assert "".join(vocabulary["target"][t] for t in tokens[: tokens.index(vocabulary["end"])]) == digits
