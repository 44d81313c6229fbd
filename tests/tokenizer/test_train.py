"""A vocabulary learnt here gives every string back and keeps digits apart."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm.tokenizer import load_tokenizer
from chatglm.tokenizer.train import NUM_BYTES, SPECIAL_TOKENS, train_tokenizer

TEXTS = [
    "今天天气很好，我们去公园散步。公园里有很多人。",
    "天气预报说明天下雨，我们明天不去公园。",
    "The weather is good today, 2024年12月31日。",
] * 20
VOCAB_SIZE = NUM_BYTES + len(SPECIAL_TOKENS) + 40


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return train_tokenizer(TEXTS, tmp_path_factory.mktemp("t") / "words", vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def tokenizer(directory):
    return load_tokenizer(directory)


def test_vocabulary_has_the_size_asked_for_with_special_tokens_last(tokenizer):
    assert tokenizer.vocab_size == VOCAB_SIZE
    ids = [tokenizer.special[word] for word in SPECIAL_TOKENS]
    assert ids == list(range(VOCAB_SIZE - len(SPECIAL_TOKENS), VOCAB_SIZE))


def test_frequent_words_become_tokens(tokenizer):
    assert len(tokenizer.encode("天气")) == 1
    assert len(tokenizer.encode("公园")) == 1


@given(st.text(max_size=40))
def test_every_string_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(alphabet="0123456789", min_size=1, max_size=20))
def test_each_digit_is_a_token(tokenizer, digits):
    assert len(tokenizer.encode(digits)) == len(digits)


@given(st.lists(st.sampled_from([*SPECIAL_TOKENS, "你好"]), max_size=6).map("".join))
def test_text_of_a_user_never_becomes_a_special_id(tokenizer, text):
    first_special = VOCAB_SIZE - len(SPECIAL_TOKENS)
    assert all(token < first_special for token in tokenizer.encode(text))


def test_two_runs_write_the_same_bytes(directory, tmp_path):
    again = train_tokenizer(TEXTS, tmp_path / "again", vocab_size=VOCAB_SIZE)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (again / name).read_bytes() == (directory / name).read_bytes()


def test_no_token_is_longer_than_asked(directory):
    words = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    assert max(map(len, words)) <= 12


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 266"):
        train_tokenizer(TEXTS, tmp_path / "t", vocab_size=100)


def test_too_little_text_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="give more text or a smaller vocab_size"):
        train_tokenizer(["你好"], tmp_path / "t", vocab_size=4000)
    assert not (tmp_path / "t").exists()


def test_a_tokenizer_is_never_written_over(directory):
    before = (directory / "tokenizer.json").read_bytes()
    with pytest.raises(FileExistsError, match="another directory"):
        train_tokenizer(["你好"], directory)
    assert (directory / "tokenizer.json").read_bytes() == before
