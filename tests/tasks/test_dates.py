import datetime
import json
import re

import numpy as np
import pytest

from edgeattn.errors import BadInput
from edgeattn.tasks import dates

MARCH_3 = datetime.date(1999, 3, 3)
FIRST_TEST_DATES = ["1981-08-28", "1985-11-28", "1963-07-04"]


def rendered(date):
    return [form(date) for form in dates.FORMS]


def test_there_are_at_least_fifteen_forms_and_no_two_alike():
    texts = rendered(datetime.date(2001, 12, 4))
    assert len(set(texts)) == len(texts) >= 15
    assert "tue 04/12/01" in texts
    assert "3rd of march, 1999" in rendered(MARCH_3)


def test_no_text_stands_for_two_dates():
    meanings = {}
    for part in dates.split():
        for date in part[:4000]:
            for text in rendered(date):
                assert meanings.setdefault(text, date) == date


def test_train_and_test_share_no_date_and_cover_a_century():
    train, test = dates.split()
    assert not set(train) & set(test)
    assert len(test) >= 2000
    assert len(train) + len(test) == 36525


def test_the_split_does_not_move():
    assert [date.isoformat() for date in dates.split()[1][:3]] == FIRST_TEST_DATES


def test_every_form_appears_in_the_test_split():
    texts = [text for text, _ in dates.pairs("test")]
    shapes = {re.sub(r"[a-z]+", "a", re.sub(r"\d+", "0", text)) for text in texts}
    assert len(shapes) >= 15


def test_ordinals():
    days = (1, 2, 3, 4, 11, 12, 13, 22, 31)
    expected = ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "22nd", "31st"]
    assert [dates.ordinal(day) for day in days] == expected


def test_no_text_is_longer_than_the_model_takes_or_outside_its_characters():
    for text, _ in [*dates.pairs("train"), *dates.pairs("test")]:
        assert len(text) <= dates.MAX_LENGTH
        assert set(text) <= set(dates.SOURCE_TOKENS)


def test_encoding_masks_the_padding_and_ignores_case():
    feeds = dates.encode(["3 MAY 1999", "1.1.50"])
    assert feeds["src"].shape == (2, 10)
    assert feeds["src"].dtype == np.int64
    assert feeds["src_mask"].sum(1).tolist() == [10, 6]
    assert (feeds["src"][1, 6:] == dates.PAD).all()
    assert np.array_equal(feeds["src"][:1], dates.encode(["3 may 1999"])["src"])


def test_a_character_outside_the_vocabulary_becomes_unknown():
    assert dates.encode(["3 März"])["src"][0].tolist().count(dates.UNKNOWN) == 1


def test_a_text_that_is_too_long_is_refused_with_its_length():
    with pytest.raises(BadInput, match=r"text of 41 characters: '1+'; at most 40 are understood"):
        dates.encode(["1" * 41])


def test_nothing_to_encode_is_refused():
    with pytest.raises(BadInput, match="no text to encode; give at least one"):
        dates.encode([])


def test_decoding_undoes_encoding_and_stops_at_the_first_end():
    tokens = dates.encode_targets(["1999-03-03", "2049-12-31"])
    assert tokens.shape == (2, dates.TARGET_LENGTH)
    assert dates.decode(tokens) == ["1999-03-03", "2049-12-31"]
    after_the_end = np.concatenate((tokens, tokens), 1)
    assert dates.decode(after_the_end) == ["1999-03-03", "2049-12-31"]


def test_a_date_counts_only_when_all_of_it_is_right():
    targets = dates.encode_targets(["1999-03-03"] * 4)
    tokens = targets.copy()
    tokens[1, 9] = dates.encode_targets(["1999-03-04"])[0, 9]
    tokens[2, 10] = dates.encode_targets(["1999-03-04"])[0, 9]  # no end where it is due
    longer = np.pad(tokens, ((0, 0), (0, 1)), constant_values=dates.END)
    longer[3, 11] = 5  # runs on after its end
    assert dates.score({"tokens": tokens}, targets).tolist() == [1, 0, 0, 1]
    assert dates.score({"tokens": longer}, targets).tolist() == [1, 0, 0, 0]
    assert dates.score({"tokens": tokens[:, :4]}, targets).tolist() == [0, 0, 0, 0]


def test_batches_are_numpy_and_repeat_exactly():
    first, second = (list(dates.TASK.test(70, 32)) for _ in range(2))
    assert [len(batch.targets) for batch in first] == [32, 32, 6]
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.feeds["src"], other.feeds["src"])
        assert np.array_equal(one.targets, other.targets)


def test_the_vocabulary_suffices_to_encode_and_decode_without_this_package():
    vocabulary = json.loads(dates.assets()["vocabulary.json"])
    text, iso = next(dates.pairs("test"))
    source = {token: index for index, token in enumerate(vocabulary["source"])}
    ids = [source.get(c, vocabulary["unknown"]) for c in text.lower()]
    assert dates.encode([text])["src"][0].tolist() == ids
    tokens = dates.encode_targets([iso])[0].tolist()
    assert "".join(vocabulary["target"][t] for t in tokens[: tokens.index(vocabulary["end"])]) == iso
