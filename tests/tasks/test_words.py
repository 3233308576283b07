import pytest

from edgeattn.errors import BadInput
from edgeattn.tasks import numbers, words


def test_the_way_back_leads_to_the_same_number():
    for part in ("train", "test"):
        for digits, text in words.pairs(part):
            number = int(digits.translate(str.maketrans("", "", ", '")))
            assert words.spell(number) == text


def test_the_test_split_is_that_of_the_way_there():
    held_out = [int(digits.translate(str.maketrans("", "", ", '"))) for digits, _ in words.pairs("test")]
    assert held_out == list(numbers.held_out())
    trained = {text for _, text in words.pairs("train")}
    assert not trained & {text for _, text in words.pairs("test")}


@pytest.mark.parametrize(("number", "forms"), [(407206, ["407206", "407,206", "407 206", "407'206"]), (42, ["42"] * 4)])
def test_thousands_are_set_apart_in_three_ways_or_not(number, forms):
    assert [form(number) for form in words.FORMS] == forms


def test_no_text_is_longer_than_the_model_takes_or_outside_its_characters():
    for part in ("train", "test"):
        for digits, text in words.pairs(part):
            assert len(digits) <= words.MAX_LENGTH
            assert set(digits) <= set(words.SOURCE_TOKENS)
            assert len(text) < words.TARGET_LENGTH
            assert set(text) <= set(words.TARGET_TOKENS)


def test_words_are_encoded_with_their_end_and_read_back():
    tokens = words.encode_targets(["six", "forty-two"])
    assert tokens.shape == (2, words.TARGET_LENGTH)
    assert words.decode(tokens) == ["six", "forty-two"]
    with pytest.raises(BadInput, match=r"text of 8 characters: '12345678'; at most 7 are understood"):
        words.encode(["12345678"])
